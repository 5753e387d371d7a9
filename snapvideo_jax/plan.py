"""The verb `snapvideo plan`: what a config needs of a TPU topology, without the TPU.

The real train step is compiled for the topology, ahead of time, on any machine that
has libtpu. Memory, FLOPs and collectives are the compiler's; the step time is a
forecast from the scheduled program (`forecast`), not a measurement.
"""

import collections
import contextlib
import dataclasses
import functools
import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from snapvideo_jax import config as configs
from snapvideo_jax.chips import CHIPS, Chip
from snapvideo_jax.forecast import (
    CALIBRATIONS,
    Forecast,
    calibrated,
    forecast,
    splash_kernels,
)
from snapvideo_jax.models.attention import FUSED_BACKWARD
from snapvideo_jax.models.flops import fit_forward, train_factor
from snapvideo_jax.sample import abstract_state
from snapvideo_jax.sharding import (
    batch_sharding,
    bytes_per_device,
    check_replicated,
    make_mesh,
    placed,
    state_shardings,
)
from snapvideo_jax.step import jit_train_step

logger = logging.getLogger(__name__)

LIBTPU_FLAGS = (
    "--xla_enable_async_all_gather=true",
    "--xla_tpu_enable_async_collective_fusion=true",
    "--xla_tpu_enable_async_collective_fusion_fuse_all_gather=true",
    "--xla_tpu_enable_async_collective_fusion_multiple_steps=true",
    "--xla_tpu_overlap_compute_collective_tc=true",
)
"""For LIBTPU_INIT_ARGS, which a plan and a run should share: gathers of parameters go
on beside matrix products. Of 42 ms of gathers in a step of FIT 3.9B on v5p:4x4x8, 41
are then hidden."""

PACKAGE = Path(__file__).parent
CACHE = Path("~/.cache/snapvideo/plans").expanduser()
TPUS = sorted(name for name, chip in CHIPS.items() if chip.hbm_gbps)


@dataclasses.dataclass(frozen=True)
class Target:
    """What a config is planned for: a topology such as "v5p:4x4x8", so many times."""

    topology: str
    slices: int = 1

    @property
    def chip(self) -> Chip:
        """What it is made of.

        Raises:
          ValueError: the chip is unknown.
        """
        name = self.topology.partition(":")[0]
        if name not in TPUS:
            raise ValueError(
                f"--topology={self.topology}: chip {name!r} is unknown; use CHIP:SHAPE "
                f"with a chip of {TPUS}, as v5p:4x4x8."
            )
        return CHIPS[name]


def topology_devices(target: Target) -> list[Any]:
    """The devices of a topology, none of which need exist.

    Raises:
      ValueError: libtpu is not installed, or knows no such topology.
    """
    try:
        metadata.version("libtpu")
    except metadata.PackageNotFoundError:
        raise ValueError(
            "libtpu is not installed, and it compiles for TPUs; use "
            "pip install 'snapvideo_jax[tpu]'."
        ) from None
    # Without these libtpu looks for a TPU for minutes, and refuses a second process.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    os.environ.setdefault("LIBTPU_INIT_ARGS", " ".join(LIBTPU_FLAGS))
    options = {"num_slices": target.slices} if target.slices > 1 else {}
    try:
        found = topologies.get_topology_desc(
            platform="tpu", topology_name=target.topology, **options
        )
    except Exception as error:  # libtpu raises errors of many types
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"--topology={target.topology} does not exist: {reason}. Its shape is the "
            "chips along each side, as v5e:16x16, v6e:16x16 or v5p:4x4x8."
        ) from None
    return list(found.devices)


def abstract_step(experiment: configs.Experiment, mesh):
    """The jitted train step of an experiment on a mesh, and shapes of its arguments."""
    boxed = jax.eval_shape(functools.partial(abstract_state, experiment))
    places = state_shardings(boxed, mesh)
    shapes = nn.unbox(boxed)
    check_replicated(shapes.params, places.params)
    over_batch, whole = batch_sharding(mesh), NamedSharding(mesh, PartitionSpec())
    key = jax.eval_shape(lambda: jax.random.key(0))
    batch = abstract_batch(experiment)
    arguments = (
        placed(shapes, places),
        placed(batch, jax.tree.map(lambda _: over_batch, batch)),
        jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=whole),
    )
    return jit_train_step(experiment, mesh, places), arguments


def abstract_batch(experiment: configs.Experiment) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a global batch."""
    data, text = experiment.data, experiment.text
    shape = jax.ShapeDtypeStruct
    batch = data.batch
    size = (batch, data.frames, data.height, data.width, 3)
    return {
        "video": shape(size, jnp.uint8),
        "frame_interval": shape((batch,), jnp.float32),
        "resolution": shape((batch, 2), jnp.float32),
        "text": shape((batch, text.tokens, text.width), jnp.float32),
        "text_mask": shape((batch, text.tokens), jnp.bool_),
        "sample": shape((batch,), jnp.uint32),
    }


def plan(config: ConfigDict, target: Target) -> dict[str, Any]:
    """Compiles the train step of a config for a topology, and tells what it needs.

    Returns:
      Plain numbers, lists and dicts; bytes, FLOPs and seconds are of one device and
      one step.

    Raises:
      ValueError: the config, the topology or the mesh cannot be used.
    """
    experiment, chip = configs.build(config), target.chip
    devices = topology_devices(target)
    mesh = make_mesh(experiment.mesh, experiment.data.batch, devices)
    step, arguments = abstract_step(experiment, mesh)
    state, batch, _ = arguments
    about = {
        "topology": target.topology,
        "slices": target.slices,
        "devices": mesh.size,
        "mesh": {axis: n for axis, n in mesh.shape.items() if n > 1},
        "remat": experiment.model.remat,
        "microbatches": experiment.training.microbatches,
        "batch": experiment.data.batch,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
    }
    memory = {
        "parameters": _held(state.params),
        "optimizer": _held(state.opt_state),
        "ema": _held(state.ema),
        "batch": _held(batch),
        "limit": chip.hbm_bytes,
    }
    logger.info("Compiling for %s, which takes minutes.", target.topology)
    began = time.monotonic()
    lowered = step.lower(*arguments)
    try:
        with _without_compile_cache():
            compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        memory["peak"] = _exhausted(error)
        return about | {"bytes": memory, "fits": False}
    about["compile_seconds"] = round(time.monotonic() - began, 1)
    found = compiled.memory_analysis()
    memory["temporaries"] = found.temp_size_in_bytes
    # Arguments and results are in it; temporaries that never live at once share room.
    memory["peak"] = found.peak_memory_in_bytes
    timed = forecast(
        compiled.as_text(),
        chip,
        mesh=dict(mesh.shape),
        slices=target.slices,
        kernels=splash_kernels(fused_backward=FUSED_BACKWARD),
    )
    flops = _flops(experiment, timed, mesh.size)
    return about | {
        "bytes": memory,
        "fits": memory["peak"] <= chip.hbm_bytes,
        "flops": flops,
        "collectives": _collectives(timed),
        **_times(experiment, timed, flops["model"], chip, mesh.size),
    }


@contextlib.contextmanager
def _without_compile_cache() -> Iterator[None]:
    """JAX cannot read programs for devices that are not there back from its cache."""
    enabled = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", enabled)
        compilation_cache.reset_cache()


def _held(tree) -> int:
    """Bytes of a tree of placed shapes that one device holds."""
    return bytes_per_device(tree, jax.tree.map(lambda leaf: leaf.sharding, tree))


def _exhausted(error: Exception) -> float:
    """Bytes that a program would have needed, from the compiler's refusal."""
    found = re.search(
        r"(?:Used |temporaries \()([\d.]+)([KMGT])\)? (?:of|exceeds)", str(error)
    )
    if not found:
        raise error
    return float(found[1]) * 2.0 ** {"K": 10, "M": 20, "G": 30, "T": 40}[found[2]]


def _flops(experiment, timed: Forecast, devices: int) -> dict[str, Any]:
    """Operations of the model by part, and of the program, which recomputes some."""
    tokens = experiment.text.tokens + experiment.model.context_numbers
    parts = fit_forward(experiment.model, tokens)
    training = experiment.training
    factor = train_factor(training.self_conditioned / training.self_conditioning_period)
    samples = experiment.data.batch / devices
    model = sum(parts.values()) * factor * samples
    return {
        "forward_per_sample": parts,
        "passes": factor,
        "model": model,
        "program": timed.flops,
        "program_over_model": timed.flops / model,
    }


def _collectives(timed: Forecast) -> list[dict[str, Any]]:
    """Collectives summed by what they are, those that take longest first."""
    rows: dict[tuple, collections.Counter] = {}
    for sent in timed.collectives:
        key = (sent.op, sent.axis, sent.dtype, sent.overlapped)
        row = rows.setdefault(key, collections.Counter())
        row.update(
            count=sent.count, bytes=sent.bytes * sent.count, seconds=sent.seconds
        )
        row["largest"] = max(row["largest"], sent.bytes)
    names = ("op", "axis", "dtype", "overlapped")
    return [
        dict(zip(names, key, strict=True)) | dict(row)
        for key, row in sorted(rows.items(), key=lambda item: -item[1]["seconds"])
    ]


def _times(
    experiment, timed: Forecast, model: float, chip: Chip, devices: int
) -> dict[str, Any]:
    """The forecast, what it makes of the whole run, and what input it needs."""
    seconds = {
        "compute": timed.compute_seconds,
        "exposed": timed.exposed_seconds,
        "hidden": timed.hidden_seconds,
        "step": timed.seconds,
        "by_cycles": timed.cycle_seconds,
    }
    likely = timed.seconds
    if chip.name in CALIBRATIONS:
        likely = seconds["calibrated"] = calibrated(chip, timed)
    steps = experiment.optimizer.steps
    peak = chip.peak_tflops * 1e12
    return {
        "seconds": seconds,
        "mfu": {
            name: model / (peak * seconds[name])
            for name in ("step", "by_cycles", "calibrated")
            if name in seconds
        },
        "steps_per_day": 86400 / likely,
        "days": likely * steps / 86400,
        "chip_hours": likely * steps * devices / 3600,
        "clips_per_second": experiment.data.batch / likely,
    }


# --- What people read ----------------------------------------------------------------


def run(arguments) -> None:
    """`snapvideo plan`."""
    with configs.user_errors():
        config = configs.load(arguments.config, arguments.overrides)
        target = Target(arguments.topology, arguments.slices)
        result = cached_plan(config, target)
    print(json.dumps(result) if arguments.json else describe(result))


def describe(result: dict[str, Any]) -> str:
    """A plan as lines of text."""
    memory = {name: size / 1e9 for name, size in result["bytes"].items()}
    short = memory["peak"] - memory["limit"]
    mesh = ", ".join(f"{axis} {size}" for axis, size in result["mesh"].items())
    lines = [
        f"topology      {result['slices']} x {result['topology']}, "
        f"{result['devices']} devices: {mesh}",
        f"step          batch {result['batch']:,} in {result['microbatches']} parts, "
        f"remat {result['remat']}",
        f"parameters    {result['parameters']:,}",
        "memory        "
        + ", ".join(f"{name} {size:.2f} GB" for name, size in memory.items()),
    ]
    if not result["fits"]:
        lines.append(f"does NOT fit  by {short:.2f} GB a device")
    if "flops" not in result:
        return "\n".join(lines)
    flops, seconds, mfu = (result[name] for name in ("flops", "seconds", "mfu"))
    lines += [
        f"FLOPs         {flops['model'] / 1e12:.4g} T of the model a device and step "
        f"({flops['passes']:.3g} forward passes), the program's are "
        f"{flops['program_over_model']:.3g} times that",
        f"forecast      {seconds['step']:.3f} s a step: compute "
        f"{seconds['compute']:.3f}, exposed communication {seconds['exposed']:.3f} "
        f"(hidden {seconds['hidden']:.3f})",
        "              "
        + ", ".join(f"{n} {seconds[n]:.3f} s = {mfu[n]:.3f} MFU" for n in mfu),
        f"run           {result['steps_per_day']:,.0f} steps a day, "
        f"{result['days']:.1f} days, {result['chip_hours']:,.0f} chip-hours",
        f"input         {result['clips_per_second']:,.0f} clips a second",
    ]
    for row in result["collectives"]:
        how = "overlapped" if row["overlapped"] else "EXPOSED"
        lines.append(
            f"  {row['op']} {row['dtype']} over {row['axis'] or 'nothing'}: "
            f"{row['count']} x, {row['bytes'] / 1e9:.3g} GB, largest "
            f"{row['largest'] / 1e6:.3g} MB, {row['seconds'] * 1e3:.3g} ms {how}"
        )
    return "\n".join(lines)


# --- Answers that were given before -------------------------------------------------


def cached_plan(config: ConfigDict, target: Target) -> dict[str, Any]:
    """`plan`, or its answer to the same question before."""
    path = CACHE / f"{_digest(config, target)}.json"
    if path.is_file():
        return json.loads(path.read_text())
    result = plan(config, target)
    CACHE.mkdir(parents=True, exist_ok=True)
    passing = path.with_suffix(f".{os.getpid()}.tmp")
    passing.write_text(json.dumps(result, indent=2))
    passing.replace(path)
    return result


def _digest(config: ConfigDict, target: Target) -> str:
    """Changes with the config, the target, this package and the compiler."""
    digest = hashlib.sha256()
    digest.update(configs.to_json(config).encode())
    digest.update(repr(target).encode())
    for name in ("jax", "jaxlib", "flax", "optax", "libtpu"):
        digest.update(f"{name} {metadata.version(name)}".encode())
    digest.update(os.environ.get("LIBTPU_INIT_ARGS", "").encode())
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:32]
