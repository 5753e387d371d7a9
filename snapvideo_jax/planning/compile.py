"""Compiles a program of a config for a topology ahead of time and measures it.

Memory, FLOPs and collectives are the compiler's; times are a forecast from the
scheduled program (`snapvideo_jax.planning.forecast`), not a measurement.
"""

import collections
import contextlib
import dataclasses
import logging
import re
import time
from collections.abc import Iterator
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache
from ml_collections import ConfigDict

from snapvideo_jax import config as configs
from snapvideo_jax.models.attention import FUSED_BACKWARD
from snapvideo_jax.parallel.chips import Chip
from snapvideo_jax.parallel.layout_report import checked_shardings
from snapvideo_jax.parallel.sharding import make_mesh
from snapvideo_jax.planning.forecast import (
    CALIBRATIONS,
    Forecast,
    calibrated,
    forecast,
    splash_kernels,
)
from snapvideo_jax.planning.forecast.scopes import part_of
from snapvideo_jax.planning.programs import PlannedProgram, sampler, train_step
from snapvideo_jax.planning.target import Target, topology_devices
from snapvideo_jax.state import abstract_state

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class PlanRequest:
    """What `compile_plan` compiles.

    Attributes:
      config: of the experiment.
      target: topology that it is compiled for.
      clips: that the sampler generates at once; None compiles the train step.
    """

    config: ConfigDict
    target: Target
    clips: int | None = None


def compile_plan(request: PlanRequest) -> dict[str, Any]:
    """Compiles a program and returns its memory, FLOPs, collectives and forecast time.

    Returns:
      Plain numbers, lists and dicts; bytes, FLOPs and seconds are of one device and
      one run of the program: a step, or a batch of clips. ``traffic`` is the bytes read
      from and written to HBM, ``parts`` the costs by part of the network. Where the
      program does not fit, ``fits`` is False and the results of a compiled program are
      absent.

    Raises:
      ValueError: the config, the topology or the mesh cannot be used.
    """
    target = request.target
    experiment, chip = configs.build(request.config), target.chip
    program, mesh = _prepared(request, experiment, topology_devices(target))
    about = {
        "program": "train step" if request.clips is None else "sampler",
        "topology": target.topology,
        "slices": target.slices,
        "devices": mesh.size,
        "mesh": {axis: n for axis, n in mesh.shape.items() if n > 1},
        **program.settings,
    }
    memory = {**program.argument_bytes, "limit": chip.hbm_bytes}
    logger.info("Compiling for %s, which takes minutes.", target.topology)
    began = time.monotonic()
    lowered = program.jitted.lower(*program.args)
    try:
        with _without_compile_cache():
            compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        memory["peak"] = _exhausted(error)
        return about | {"bytes": memory, "fits": False}
    about["compile_seconds"] = round(time.monotonic() - began, 1)
    found = compiled.memory_analysis()
    memory["temporaries"] = found.temp_size_in_bytes
    # It includes arguments and results; temporaries of disjoint lifetimes share memory.
    memory["peak"] = found.peak_memory_in_bytes
    timed = forecast(
        compiled.as_text(),
        chip,
        mesh=dict(mesh.shape),
        slices=target.slices,
        kernels=splash_kernels(fused_backward=FUSED_BACKWARD),
    )
    return about | {
        "bytes": memory,
        "fits": memory["peak"] <= chip.hbm_bytes,
        "collectives": _collectives(timed),
        "traffic": timed.hbm_bytes,
        "parts": _by_part(timed),
        **_costs(program, timed, chip, mesh.size),
    }


def placements_of(config: ConfigDict, target: Target):
    """Parameters of a config with their logical axes, and their shardings.

    Raises:
      ValueError: the config, the topology or the mesh cannot be used.
    """
    experiment = configs.build(config)
    devices = topology_devices(target)
    mesh = make_mesh(experiment.mesh, experiment.data.batch, devices)
    boxed = abstract_state(experiment)
    return boxed.params, checked_shardings(boxed, mesh).params


def _prepared(request: PlanRequest, experiment: configs.Experiment, devices):
    """The requested program before compilation, and its mesh."""
    if request.clips is None:
        mesh = make_mesh(experiment.mesh, experiment.data.batch, devices)
        return train_step(experiment, mesh), mesh
    # The sampler pads its batch to a multiple of the devices.
    mesh = make_mesh(experiment.mesh, len(devices), devices)
    return sampler(experiment, mesh, request.clips), mesh


@contextlib.contextmanager
def _without_compile_cache() -> Iterator[None]:
    """JAX cannot load programs for absent devices from its compilation cache."""
    enabled = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", enabled)
        compilation_cache.reset_cache()


def _exhausted(error: Exception) -> float:
    """Bytes that a program needs, from the compiler's out-of-memory error."""
    found = re.search(
        r"(?:Used |temporaries \()([\d.]+)([KMGT])\)? (?:of|exceeds)", str(error)
    )
    if not found:
        raise error
    return float(found[1]) * 2.0 ** {"K": 10, "M": 20, "G": 30, "T": 40}[found[2]]


def _collectives(timed: Forecast) -> list[dict[str, Any]]:
    """Collectives summed by operation, axis, type and overlap; the longest first."""
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


def _by_part(timed: Forecast) -> dict[str, dict[str, float]]:
    """Computation by part of the network, the longest first.

    ``product_seconds`` is the time of instructions with matrix products.
    """
    rows: dict[str, collections.Counter] = {}
    for one in timed.instructions:
        rows.setdefault(part_of(one.op_name), collections.Counter()).update(
            seconds=one.seconds,
            product_seconds=one.seconds if one.flops else 0.0,
            flops=one.flops,
            bytes=one.hbm_bytes,
        )
    longest = sorted(rows.items(), key=lambda row: -row[1]["seconds"])
    return {part: dict(row) for part, row in longest}


def _costs(
    program: PlannedProgram, timed: Forecast, chip: Chip, devices: int
) -> dict[str, Any]:
    """Operations, the forecast time, MFU and throughput."""
    forward = sum(program.forward_flops.values())
    model = forward * program.passes * program.samples / devices
    seconds = {
        "compute": timed.compute_seconds,
        "exposed": timed.exposed_seconds,
        "hidden": timed.hidden_seconds,
        program.unit: timed.seconds,
        "by_cycles": timed.cycle_seconds,
    }
    likely = timed.seconds
    # Calibrations are measurements of train steps; there is none for samplers.
    if chip.name in CALIBRATIONS and program.unit == "step":
        likely = seconds["calibrated"] = calibrated(chip, timed)
    peak = chip.peak_tflops * 1e12
    return {
        "flops": {
            "forward_per_sample": dict(program.forward_flops),
            "passes": program.passes,
            "model": model,
            "program": timed.flops,
            "program_over_model": timed.flops / model,
        },
        "seconds": seconds,
        "mfu": {
            name: model / (peak * seconds[name])
            for name in (program.unit, "by_cycles", "calibrated")
            if name in seconds
        },
        **program.throughput(likely, devices),
    }
