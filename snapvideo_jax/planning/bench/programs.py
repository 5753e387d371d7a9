"""The programs that can be measured: train step, forward pass and sampler.

They are those of a run, with initial parameters and a batch of noise.
"""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from snapvideo_jax import config as configs
from snapvideo_jax.diffusion.noise import sample_keys
from snapvideo_jax.io.messages import human_bytes
from snapvideo_jax.models.flops import flops_forward, flops_per_sample
from snapvideo_jax.parallel import host_memory
from snapvideo_jax.parallel.layout_report import checked_shardings
from snapvideo_jax.parallel.sharding import (
    batch_sharding,
    local_rows,
    put_batch,
    put_key,
    round_up_to_devices,
    with_layout,
)
from snapvideo_jax.sampling import options
from snapvideo_jax.sampling.generator import Generator, Request
from snapvideo_jax.state import abstract_state, fresh_state
from snapvideo_jax.step import jit_train_step, with_low_resolution
from snapvideo_jax.types import context_of, pixels


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled program with its inputs on the devices.

    Attributes:
      call: runs it once.
      compiled: has its memory analysis and its text; None for the sampler.
      compile_seconds: of compilation, or of loading it from the cache.
      clips: of one run, on all devices.
      flops: of the model in one run, on all devices.
    """

    call: Callable[[], Any]
    compiled: Any
    compile_seconds: float
    clips: int
    flops: float


def train_program(experiment: configs.Experiment, mesh) -> Program:
    """The train step; each run takes the state that the previous one returned."""
    boxed = abstract_state(experiment)
    places = checked_shardings(boxed, mesh)
    batch, key = synthetic_batch(experiment, mesh), put_key(experiment.seed, mesh)
    step = jit_train_step(experiment, mesh, places)
    compiled, seconds = _compile(step, nn.unbox(boxed), batch, key)
    state = _initial(experiment, places)

    def call():
        nonlocal state
        state, metrics = compiled(state, batch, key)
        return metrics

    size = experiment.data.batch
    return Program(call, compiled, seconds, size, size * flops_per_sample(experiment))


def forward_program(experiment: configs.Experiment, mesh) -> Program:
    """The network's forward pass alone, without dropout or self-conditioning."""
    boxed = abstract_state(experiment)
    places = checked_shardings(boxed, mesh)
    batch, key = synthetic_batch(experiment, mesh), put_key(experiment.seed, mesh)
    model, size = experiment.model, experiment.data.batch

    def forward(params, batch, key):
        clip = pixels(batch["video"])
        context = context_of(batch, jnp.zeros(size, bool))
        if model.is_upsampler:
            keys = sample_keys(key, batch["sample"])
            context = with_low_resolution(context, clip, keys, experiment.training)
        nothing = model.no_latents(size)
        return model.apply({"params": params}, clip, jnp.zeros(size), context, nothing)

    jitted = jax.jit(with_layout(forward, mesh), out_shardings=batch_sharding(mesh))
    params = _initial(experiment, places, "params")
    compiled, seconds = _compile(jitted, params, batch, key)
    call = functools.partial(compiled, params, batch, key)
    return Program(call, compiled, seconds, size, size * flops_forward(experiment))


def sampler_program(experiment: configs.Experiment, mesh) -> Program:
    """The sampler with the guidance of the sample sheets; results reach the host."""
    boxed = abstract_state(experiment)
    params = _initial(experiment, checked_shardings(boxed, mesh), "params")
    generator = Generator(experiment, experiment.sampler, mesh)
    clips = round_up_to_devices(min(experiment.data.batch, options.BATCH), mesh)
    request = Request(
        prompts=["a red cross moving left"] * clips,
        numbers=range(clips),
        seed=0,
        guidance=experiment.sheets.guidance,
        fps=experiment.sheets.fps,
        resolution=options.resolution_of(experiment),
    )
    call = functools.partial(generator, params, request)
    began = time.perf_counter()
    call()
    first = time.perf_counter() - began
    began = time.perf_counter()
    call()
    seconds = max(first - (time.perf_counter() - began), 0.0)
    passes = experiment.sampler.calls * (2 if request.guidance else 1)
    flops = clips * passes * flops_forward(experiment)
    return Program(call, None, seconds, clips, flops)


PROGRAMS = {
    "train step": train_program,
    "forward pass": forward_program,
    "sampler": sampler_program,
}


def synthetic_batch(experiment: configs.Experiment, mesh) -> dict[str, jax.Array]:
    """A batch of noise, in the form of the data pipeline's, on the devices."""
    data, text = experiment.data, experiment.text
    place = batch_sharding(mesh)
    numbers = local_rows(place, data.batch)
    rows, rng = len(numbers), np.random.default_rng(experiment.seed)
    size = (rows, data.frames, data.height, data.width, 3)
    batch = {
        "video": rng.integers(256, size=size, dtype=np.uint8),
        "frame_interval": np.full(rows, 1 / 24, np.float32),
        "resolution": np.full((rows, 2), (data.height, data.width), np.float32),
        "text": rng.standard_normal((rows, text.tokens, text.width), np.float32),
        "text_mask": np.ones((rows, text.tokens), bool),
        "sample": np.array(numbers, np.uint32),
    }
    return put_batch(batch, place)


def _initial(experiment, places, part: str | None = None):
    """An initial state, or a part of one, with its shardings."""

    def init():
        state = nn.unbox(fresh_state(experiment))
        return getattr(state, part) if part else state

    where = getattr(places, part) if part else places
    return jax.jit(init, out_shardings=where)()


def _compile(jitted, *arguments):
    """The program compiled for these arguments, and the seconds of compilation.

    Raises:
      JaxRuntimeError: the program needs more memory than the host has available; on a
        CPU the process would be killed without an error.
    """
    began = time.perf_counter()
    compiled = jitted.lower(*arguments).compile()
    seconds = time.perf_counter() - began
    if jax.default_backend() == "cpu":
        host_memory.release_free_pages()
        free, needed = (
            host_memory.available(),
            compiled.memory_analysis().temp_size_in_bytes,
        )
        if free is not None and needed >= free:
            raise jax.errors.JaxRuntimeError(
                f"RESOURCE_EXHAUSTED: {human_bytes(needed)} needed, "
                f"{human_bytes(free)} free"
            )
    return compiled, seconds
