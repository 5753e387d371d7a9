"""The guided sampler, compiled for eight devices: no clip leaves the one it is on."""

import dataclasses
import re

import flax.linen as nn
import jax
from helpers import tiny_config
from jax.sharding import NamedSharding, PartitionSpec

from snapvideo_jax import config as configs
from snapvideo_jax.diffusion import Guidance, Sampler
from snapvideo_jax.parallel.sharding import (
    MeshConfig,
    batch_sharding,
    make_mesh,
    with_shardings,
)
from snapvideo_jax.planning.programs import abstract_batch
from snapvideo_jax.sampling.generator import (
    Guide,
    SamplerInputs,
    SamplerProgram,
    jit_sampler,
)
from snapvideo_jax.state import fresh_state

MOVES = r"(?:all-to-all|collective-permute|all-gather|all-reduce)(?:-start)?"


def collectives(guidance, solver):
    """Collectives of a program that samples 16 clips with every kind of guidance.

    The guiding model is a smaller one.
    """
    config = configs.build(tiny_config("nowhere"))
    experiment = dataclasses.replace(config, guidance=guidance)
    mesh = make_mesh(MeshConfig(), batch=8)
    everywhere = NamedSharding(mesh, PartitionSpec())

    def put(tree, where):
        return with_shardings(tree, jax.tree.map(lambda _: where, tree))

    def params_of(experiment):
        state = jax.eval_shape(lambda: nn.unbox(fresh_state(experiment)))
        return put(state.params, everywhere)

    small = experiment.model.clone(blocks=1, latents=4, latent_width=8)
    smaller = params_of(dataclasses.replace(experiment, model=small))
    fields = put(abstract_batch(experiment, 16), batch_sharding(mesh))
    numbers = fields.pop("sample")
    del fields["video"]
    negative = {name: fields[name] for name in ("text", "text_mask")}
    guide = Guide(small, experiment.diffusion, smaller)
    program = SamplerProgram(experiment, Sampler(3, solver), guide)
    jitted = jit_sampler(program, mesh)
    key = put(jax.eval_shape(lambda: jax.random.key(0)), everywhere)
    params = params_of(experiment)
    inputs = SamplerInputs(fields, numbers, key, 2.0, negative)
    text = jitted.lower(params, inputs, smaller).compile().as_text()
    assert "while" in text and "num_partitions=8" in text
    return [found[1] for found in re.finditer(rf" ({MOVES})\(", text)]


def test_guidance_moves_no_clip_between_devices():
    """A sample and its unconditional twin stay where the sample is."""
    guidance = Guidance(oscillate=True, after=1, interval=(0.1, 9.0), threshold=0.9)
    assert collectives(guidance, "heun") == []
