"""Times, rates and memory of programs on the devices of this machine."""

import dataclasses
import logging
import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from snapvideo_jax import config as configs
from snapvideo_jax.io.errors import first_line
from snapvideo_jax.parallel.chips import peak_tflops
from snapvideo_jax.parallel.sharding import make_mesh
from snapvideo_jax.planning import PlanRequest, Target, cached_plan
from snapvideo_jax.planning.bench import traces
from snapvideo_jax.planning.bench.programs import PROGRAMS, Program

logger = logging.getLogger(__name__)

WARM_UP = 2
"""Untimed runs: the first also allocates."""
TRACED = 3
"""Runs in a profiler trace, which grows by many MB with each."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """What `bench` measures.

    Attributes:
      steps: timed runs of each program; 1 or more.
      forward, sampler: measure the network's forward pass, the sampler, or both, in
        place of the train step.
      profile: folder for a trace of each program; the traced runs follow the timed
        ones.
      plan: TPU topology, for example "v5p:4x4x8", whose forecast of the train step is
        added.

    Raises:
      ValueError: an option cannot be used, or the topology is unknown.
    """

    steps: int = 20
    forward: bool = False
    sampler: bool = False
    profile: Path | None = None
    plan: str | None = None

    def __post_init__(self):
        if self.profile and self.profile.is_file():
            raise ValueError(f"--profile={self.profile} is a file; name a folder.")
        if self.plan and (self.forward or self.sampler):
            raise ValueError(
                "--plan forecasts the train step; leave out --forward and --sampler."
            )
        if self.plan:
            _ = Target(self.plan).chip

    @property
    def programs(self) -> tuple[str, ...]:
        """Names of `PROGRAMS`."""
        chosen = {"forward pass": self.forward, "sampler": self.sampler}
        return tuple(name for name in chosen if chosen[name]) or ("train step",)


@dataclasses.dataclass(frozen=True)
class Times:
    """Wall-clock seconds and processor seconds of each run, in order.

    Processor seconds, summed over the process's threads, do not measure speed, but
    other load on the machine hardly changes them.
    """

    seconds: tuple[float, ...]
    processor_seconds: tuple[float, ...] = ()

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def quartiles(self) -> tuple[float, float]:
        """The lower and the upper quartile of the seconds."""
        low, high = np.quantile(self.seconds, [0.25, 0.75])
        return float(low), float(high)


def interleaved(
    calls: Mapping[Hashable, Callable[[], Any]],
    repeats: int,
    warm_up: int = WARM_UP,
    before: int = 0,
) -> dict[Hashable, Times]:
    """Times of several calls that take turns, so that load on the machine hits all.

    Args:
      calls: by name; each result is waited for.
      repeats: timed turns.
      warm_up: untimed turns before those.
      before: untimed runs in each turn, before the timed one. Memory that a program
        frees may return to the operating system during the turns of the others, and
        the first run would include the time to allocate it.
    """
    clocks = time.perf_counter, time.process_time
    found: dict[Hashable, list[tuple[float, ...]]] = {name: [] for name in calls}
    for turn in range(warm_up + repeats):
        for name, call in calls.items():
            for _ in range(before):
                jax.block_until_ready(call())
            began = [clock() for clock in clocks]
            jax.block_until_ready(call())
            if turn >= warm_up:
                took = (
                    clock() - then for clock, then in zip(clocks, began, strict=True)
                )
                found[name].append(tuple(took))
    return {name: Times(*zip(*runs, strict=True)) for name, runs in found.items()}


def bench(config: ConfigDict, options: BenchOptions) -> dict[str, Any]:
    """Measures a config on all devices.

    Args:
      config: of the experiment.
      options: what is measured.

    Returns:
      Plain numbers, lists and dicts. FLOPs are of the model and of all devices, bytes
      of one device; ``plan`` is as from `cached_plan`, or None.

    Raises:
      ValueError: the config cannot be used here, or does not fit in memory.
    """
    # Planning first reports errors of the plan before minutes of measuring.
    plan = options.plan and cached_plan(PlanRequest(config, Target(options.plan)))
    experiment = configs.build(config)
    mesh = make_mesh(experiment.mesh, experiment.data.batch)
    device = mesh.devices.flat[0]
    peak = experiment.run.peak_tflops or peak_tflops(device.device_kind)
    result = {
        "device": device.device_kind,
        "platform": device.platform,
        "devices": mesh.size,
        "jax": jax.__version__,
        "mesh": {axis: size for axis, size in mesh.shape.items() if size > 1},
        "batch": experiment.data.batch,
        "dtype": experiment.model.dtype,
        "remat": experiment.model.remat,
        "peak_tflops": peak or None,
        "programs": {},
        "plan": plan,
    }
    for name in options.programs:
        folder = options.profile and options.profile / name.replace(" ", "_")
        try:
            row = _row(name, experiment, mesh, options.steps, peak * mesh.size, folder)
        except jax.errors.JaxRuntimeError as error:
            raise ValueError(_out_of_memory(error, name, experiment)) from error
        result["programs"][name] = row
    return result


def _row(name, experiment, mesh, steps, peak, folder) -> dict[str, Any]:
    """Measurements of one program; returning releases its memory."""
    logger.info("Compiling the %s.", name)
    program = PROGRAMS[name](experiment, mesh)
    row = _measured(program, steps, peak)
    if folder:
        row["profile"] = _profiled(program, folder, steps)
    return row


def _measured(program: Program, steps: int, peak: float) -> dict[str, Any]:
    """Times, rates and memory of a program; ``peak`` in TFLOP/s of all devices."""
    times = interleaved({"": program.call}, steps)[""]
    low, high = times.quartiles()
    rate = program.flops / times.median / 1e12
    row = {
        "compile_seconds": program.compile_seconds,
        "seconds": {
            "median": times.median,
            "lower_quartile": low,
            "upper_quartile": high,
        },
        "runs": steps,
        "clips": program.clips,
        "clips_per_second": program.clips / times.median,
        "seconds_per_clip": times.median / program.clips,
        "model_tflops": program.flops / 1e12,
        "model_tflops_per_second": rate,
        "mfu": rate / peak if peak else None,
        "bytes": {},
    }
    if program.compiled and (memory := program.compiled.memory_analysis()):
        row["bytes"] = {
            "arguments": memory.argument_size_in_bytes,
            "temporaries": memory.temp_size_in_bytes,
        }
        if jax.default_backend() != "cpu":  # on a CPU it omits temporaries
            row["bytes"]["compiled peak"] = memory.peak_memory_in_bytes
    # None on a CPU; elsewhere the peak since the process started.
    stats = jax.local_devices()[0].memory_stats() or {}
    for key in ("bytes_in_use", "peak_bytes_in_use", "bytes_limit"):
        if key in stats:
            row["bytes"][f"device {key}".replace("_", " ")] = stats[key]
    return row


def _profiled(program: Program, folder: Path, steps: int) -> dict[str, Any] | None:
    """Tables of a few traced runs; None for a program without HLO text."""
    runs = min(steps, TRACED)
    with jax.profiler.trace(str(folder)):
        for _ in range(runs):
            jax.block_until_ready(program.call())
    if program.compiled is None:
        return None
    try:
        return traces.tables(folder, program.compiled.as_text(), runs)
    except ValueError as error:
        logger.warning("%s", error)
        return None


def _out_of_memory(error: Exception, name: str, experiment) -> str:
    """The message about a program that does not fit; re-raises other errors."""
    if "RESOURCE_EXHAUSTED" not in str(error):
        raise error
    reason = first_line(error)
    return (
        f"The {name} of a batch of {experiment.data.batch} does not fit in a device's "
        f"memory ({reason}); use fewer --config.data.videos_per_batch and "
        "images_per_batch, or another --config.model.remat."
    )
