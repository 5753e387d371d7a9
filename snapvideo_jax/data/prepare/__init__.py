"""From a folder of captioned files to shards that training reads, on Apache Beam."""

from snapvideo_jax.data.prepare.config import PrepareConfig, Rules, Stage

__all__ = ["PrepareConfig", "Rules", "Stage"]
