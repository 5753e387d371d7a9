"""The programs that can be planned, the train step and the sampler, on shapes."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from snapvideo_jax import config as configs
from snapvideo_jax.models.flops import train_factor
from snapvideo_jax.parallel.layout_report import checked_shardings
from snapvideo_jax.parallel.sharding import (
    batch_sharding,
    bytes_per_device,
    round_up_to_devices,
    with_shardings,
)
from snapvideo_jax.sampling.generator import (
    SamplerInputs,
    SamplerProgram,
    jit_sampler,
)
from snapvideo_jax.state import abstract_state
from snapvideo_jax.step import jit_train_step


@dataclasses.dataclass(frozen=True)
class PlannedProgram:
    """A program, and its properties that are known before compilation.

    Attributes:
      unit: the result of one run: a "step", or a "batch" of clips.
      jitted, args: the function, and the shapes and shardings of its arguments.
      settings: fields of the plan that identify the program.
      argument_bytes: bytes of its arguments on one device, by kind.
      forward_flops: FLOPs of the network for one sample, by part.
      passes: forward passes whose FLOPs equal those of one run for a sample.
      samples: of one run, on all devices.
      throughput: from the seconds of one run and the number of devices: rates and total
        times.
    """

    unit: str
    jitted: Callable
    args: tuple
    settings: Mapping[str, Any]
    argument_bytes: Mapping[str, int]
    forward_flops: Mapping[str, float]
    passes: float
    samples: int
    throughput: Callable[[float, int], dict[str, float]]


def train_step(experiment: configs.Experiment, mesh: Mesh) -> PlannedProgram:
    """The step that `snapvideo train` runs."""
    state, shardings = _state(experiment, mesh)
    batch = _sharded_over_batch(abstract_batch(experiment), mesh)
    training, steps = experiment.training, experiment.optimizer.steps
    size = experiment.data.batch
    return PlannedProgram(
        unit="step",
        jitted=jit_train_step(experiment, mesh, shardings),
        args=(state, batch, _key(mesh)),
        settings={
            "remat": experiment.model.remat,
            "microbatches": training.microbatches,
            "batch": size,
            "parameters": _count(state.params),
        },
        argument_bytes={
            "parameters": _bytes(state.params),
            "optimizer": _bytes(state.opt_state),
            "ema": _bytes((state.ema, state.powers)),
            "batch": _bytes(batch),
        },
        forward_flops=_forward_flops(experiment),
        passes=train_factor(training.self_conditioned_share),
        samples=size,
        throughput=lambda seconds, devices: {
            "steps_per_day": 86400 / seconds,
            "days": seconds * steps / 86400,
            "chip_hours": seconds * steps * devices / 3600,
            "clips_per_second": size / seconds,
        },
    )


def sampler(experiment: configs.Experiment, mesh: Mesh, clips: int) -> PlannedProgram:
    """The program by which `snapvideo sample` generates ``clips`` clips at once."""
    state, _ = _state(experiment, mesh)
    settings = experiment.sampler
    padded = round_up_to_devices(clips, mesh)
    fields = abstract_batch(experiment, padded)
    numbers = fields.pop("sample")
    fields.pop("video")
    inputs, numbers = _sharded_over_batch((fields, numbers), mesh)
    guidance = experiment.sheets.guidance
    return PlannedProgram(
        unit="batch",
        jitted=jit_sampler(SamplerProgram(experiment, settings), mesh),
        args=(
            state.params,
            SamplerInputs(inputs, numbers, _key(mesh), guidance or None),
        ),
        settings={
            "batch": clips,
            "steps": settings.steps,
            "solver": settings.solver,
            "guidance": guidance,
            "evaluations": settings.calls,
            "parameters": _count(state.params),
        },
        argument_bytes={
            "parameters": _bytes(state.params),
            "batch": _bytes((inputs, numbers)),
        },
        forward_flops=_forward_flops(experiment),
        passes=settings.calls * (2 if guidance else 1),  # guided: on every clip twice
        samples=padded,
        throughput=lambda seconds, devices: {
            "seconds_per_clip": seconds / clips,
            "chip_seconds_per_clip": seconds * devices / clips,
            "clips_per_second": clips / seconds,
        },
    )


def abstract_batch(
    experiment: configs.Experiment, size: int | None = None
) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a global batch of ``size`` samples (default: the config's)."""
    data, text = experiment.data, experiment.text
    shape = jax.ShapeDtypeStruct
    batch = data.batch if size is None else size
    channels = experiment.model.out_channels
    video = (batch, data.frames, data.height, data.width, channels)
    return {
        "video": shape(video, jnp.uint8),
        "frame_interval": shape((batch,), jnp.float32),
        "resolution": shape((batch, 2), jnp.float32),
        "text": shape((batch, text.tokens, text.width), jnp.float32),
        "text_mask": shape((batch, text.tokens), jnp.bool_),
        "sample": shape((batch,), jnp.uint32),
    }


def _bytes(tree) -> int:
    """Bytes on one device of a tree of shapes with shardings."""
    return bytes_per_device(tree, jax.tree.map(lambda leaf: leaf.sharding, tree))


def _state(experiment: configs.Experiment, mesh: Mesh):
    """Shapes of a state with shardings, and the shardings."""
    boxed = abstract_state(experiment)
    shardings = checked_shardings(boxed, mesh)
    return with_shardings(nn.unbox(boxed), shardings), shardings


def _sharded_over_batch(tree, mesh: Mesh):
    sharding = batch_sharding(mesh)
    return with_shardings(tree, jax.tree.map(lambda _: sharding, tree))


def _key(mesh: Mesh) -> jax.ShapeDtypeStruct:
    key = jax.eval_shape(lambda: jax.random.key(0))
    replicated = NamedSharding(mesh, PartitionSpec())
    return jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=replicated)


def _forward_flops(experiment: configs.Experiment) -> dict[str, float]:
    text = experiment.text
    return experiment.model.forward_flops(text.tokens, text.width)


def _count(params) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))
