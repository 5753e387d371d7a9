"""Workdirs with random parameters, as training would leave them; nothing is trained."""

import flax.linen as nn
import jax
import numpy as np
from helpers import tiny_config

from snapvideo_jax import config as configs
from snapvideo_jax.io.files import write_atomically
from snapvideo_jax.state import abstract_state
from snapvideo_jax.training.checkpoints.checkpoints import Checkpoints

SMALL = ("data.height=7", "data.width=8", "model.pad_height=(0,1)")
UPSAMPLER = (
    *("model.in_channels=6", "training.low_resolution=(7,8)"),
    *("sheets.guidance=0.0", "text.tokens=6"),
)


def make_run(workdir, *overrides, scale=0.3):
    """A run of the tiny config, with overrides, at step 1."""
    config = tiny_config("nowhere", *overrides)
    experiment = configs.build(config)
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        kind = getattr(path[-1], "key", "")
        wanted = 1.0 * (kind == "scale")
        noise = rng.normal(size=leaf.shape) * scale
        if kind == "kernel":
            noise = noise / leaf.shape[-2] ** 0.5 / scale
        return jax.device_put((wanted + noise).astype(leaf.dtype))

    state = jax.tree_util.tree_map_with_path(draw, nn.unbox(abstract_state(experiment)))
    write_atomically(workdir / "config.json", configs.to_json(config).encode())
    checkpoints = Checkpoints(workdir, 1)
    checkpoints.save(1, state, {}, force=True)
    checkpoints.close()
    return workdir
