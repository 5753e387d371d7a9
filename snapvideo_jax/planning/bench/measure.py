"""Times, rates and memory of programs on the devices that are here."""

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
from snapvideo_jax.planning.bench import traces
from snapvideo_jax.planning.bench.programs import PROGRAMS, Program

logger = logging.getLogger(__name__)

WARM_UP = 2
"""Runs that are not counted: the first also allocates."""
TRACED = 3
"""Runs in a trace of the profiler, which grows by many MB with each."""


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds of every run, in order, and what this process used of its processors.

    The second is no measure of speed, but it hardly depends on what else the machine
    does.
    """

    seconds: tuple[float, ...]
    processor_seconds: tuple[float, ...] = ()

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def quartiles(self) -> tuple[float, float]:
        """Seconds that a quarter of the runs, and three quarters, stayed below."""
        low, high = np.quantile(self.seconds, [0.25, 0.75])
        return float(low), float(high)


def interleaved(
    calls: Mapping[Hashable, Callable[[], Any]],
    repeats: int,
    warm_up: int = WARM_UP,
    before: int = 0,
) -> dict[Hashable, Times]:
    """Times of several calls that take turns, so that all see the same machine.

    Args:
      calls: by name; their results are waited for.
      repeats: counted turns.
      warm_up: turns before those.
      before: runs in each turn that are not counted, before the one that is. Memory
        that a program frees may go back to the machine while others have their turns,
        and the first run would also be timed getting it again.
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


def bench(
    config: ConfigDict, what: tuple[str, ...], steps: int, profile: Path | None = None
) -> dict[str, Any]:
    """Measures a config on all devices.

    Args:
      config: of the experiment.
      what: names of `PROGRAMS`.
      steps: runs of each that are timed.
      profile: folder for a trace of each; None for no trace. The traced runs come after
        the timed ones.

    Returns:
      Plain numbers, lists and dicts. FLOPs are of the model and of all devices, bytes
      of one device.

    Raises:
      ValueError: the config cannot be used here, or does not fit in memory.
    """
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
    }
    for name in what:
        folder = profile and profile / name.replace(" ", "_")
        try:
            row = _row(name, experiment, mesh, steps, peak * mesh.size, folder)
        except jax.errors.JaxRuntimeError as error:
            raise ValueError(_out_of_memory(error, name, experiment)) from error
        result["programs"][name] = row
    return result


def _row(name, experiment, mesh, steps, peak, folder) -> dict[str, Any]:
    """What is measured of one program, whose memory is free again afterwards."""
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
        if jax.default_backend() != "cpu":  # there it leaves temporaries out
            row["bytes"]["compiled peak"] = memory.peak_memory_in_bytes
    # Of a CPU there are none; of others, since the process began.
    stats = jax.local_devices()[0].memory_stats() or {}
    for key in ("bytes_in_use", "peak_bytes_in_use", "bytes_limit"):
        if key in stats:
            row["bytes"][f"device {key}".replace("_", " ")] = stats[key]
    return row


def _profiled(program: Program, folder: Path, steps: int) -> dict[str, Any] | None:
    """Tables of a few more runs; None where this program has no text to read."""
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
    """What to do about a program that does not fit; anything else is raised again."""
    if "RESOURCE_EXHAUSTED" not in str(error):
        raise error
    reason = first_line(error)
    return (
        f"The {name} of a batch of {experiment.data.batch} does not fit in a device's "
        f"memory ({reason}); use fewer --config.data.videos_per_batch and "
        "images_per_batch, or another --config.model.remat."
    )
