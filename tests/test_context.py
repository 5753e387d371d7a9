"""The context axis: one clip of an upsampler on several devices."""

import jax
import pytest
from helpers import tiny_config

from snapvideo_jax import config as configs
from snapvideo_jax.parallel.sharding import MeshConfig, make_mesh
from snapvideo_jax.planning.programs import train_step

WIDE = (
    "data.frames=8",
    "data.height=64",
    "data.width=128",
    "model.pad_height=(0,0)",
    "model.group=(4,4)",
    "model.latents=64",
    "model.in_channels=6",
    "model.remat=layer",
    "training.low_resolution=(8,16)",
)
"""4,096 patches in 32 groups: activations are nearly all that a step holds."""


def activation_bytes(context):
    """What a step on a batch that ``context`` devices share holds for a while."""
    experiment = configs.build(tiny_config("nowhere", *WIDE))
    devices = jax.devices()[:context]
    mesh = make_mesh(MeshConfig(data=1, context=context), 8, devices)
    step = train_step(experiment, mesh)
    compiled = step.jitted.lower(*step.args).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.slow
def test_four_devices_that_share_a_clip_need_a_quarter_of_its_activations():
    alone, shared = activation_bytes(1), activation_bytes(4)
    assert alone > 50e6  # so that little else counts
    assert alone / shared > 3.5
