"""A step of a run, replayed from an earlier checkpoint, and a look into its batch.

`rebuild` makes the state and the batch that the step had, `samples` looks into the
batch, `report` compares with the ledger and writes what was found.
"""

from snapvideo_jax.training.replay.rebuild import RebuiltStep, ReplayOptions, rebuild
from snapvideo_jax.training.replay.report import replay

__all__ = ["RebuiltStep", "ReplayOptions", "rebuild", "replay"]
