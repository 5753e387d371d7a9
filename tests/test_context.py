"""The context axis: one clip of an upsampler on several devices."""

import functools

import flax.linen as nn
import jax
from helpers import tiny_config

from snapvideo_jax import config as configs
from snapvideo_jax.plan.work import abstract_batch
from snapvideo_jax.sample import abstract_state
from snapvideo_jax.sharding import (
    MeshConfig,
    batch_sharding,
    make_mesh,
    placed,
    state_shardings,
)
from snapvideo_jax.step import jit_train_step

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
    boxed = jax.eval_shape(functools.partial(abstract_state, experiment))
    places = state_shardings(boxed, mesh)
    state = placed(nn.unbox(boxed), places)
    over_batch = batch_sharding(mesh)
    batch = abstract_batch(experiment)
    batch = placed(batch, jax.tree.map(lambda _: over_batch, batch))
    key = jax.eval_shape(lambda: jax.random.key(0))
    step = jit_train_step(experiment, mesh, places).lower(state, batch, key)
    return step.compile().memory_analysis().temp_size_in_bytes


def test_four_devices_that_share_a_clip_need_a_quarter_of_its_activations():
    alone, shared = activation_bytes(1), activation_bytes(4)
    assert alone > 50e6  # so that little else counts
    assert alone / shared > 3.5
