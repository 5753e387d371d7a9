"""The verb `snapvideo bench`: how fast a config runs on the devices that are here.

What is measured is what a run does: the jitted train step of `step`, on the mesh of the
config, with a batch that is on the devices already; or the network's forward pass, or
the sampler. A run adds the loading of data, which its own metrics tell
(``data_wait_share``).
"""

import dataclasses
import functools
import json
import logging
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from snapvideo_jax import config as configs
from snapvideo_jax import distributed, profiling, sample
from snapvideo_jax.chips import peak_tflops
from snapvideo_jax.plan import Target, cached_plan
from snapvideo_jax.sharding import (
    batch_sharding,
    laid_out,
    local_rows,
    make_mesh,
    put_batch,
    put_key,
    state_shardings,
)
from snapvideo_jax.step import (
    context_of,
    jit_train_step,
    pixels,
    sample_keys,
    with_low_resolution,
)
from snapvideo_jax.train import flops_forward, flops_per_sample

logger = logging.getLogger(__name__)

WARM_UP = 2
"""Runs that are not counted: the first also allocates."""
TRACED = 3
"""Runs in a trace of the profiler, which grows by many MB with each."""
CLIPS = 64
"""Most clips that the sampler makes at once, as `snapvideo sample` does."""


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds of every run, in order."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def quartiles(self) -> tuple[float, float]:
        """Seconds that a quarter of the runs, and three quarters, stayed below."""
        low, high = np.quantile(self.seconds, [0.25, 0.75])
        return float(low), float(high)


def interleaved(
    calls: Mapping[str, Callable[[], Any]], repeats: int, warm_up: int = WARM_UP
) -> dict[str, Times]:
    """Times of several calls that take turns, so that all see the same machine.

    Args:
      calls: by name; their results are waited for.
      repeats: counted turns.
      warm_up: turns before those.
    """
    found: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(warm_up + repeats):
        for name, call in calls.items():
            began = time.perf_counter()
            jax.block_until_ready(call())
            if turn >= warm_up:
                found[name].append(time.perf_counter() - began)
    return {name: Times(tuple(seconds)) for name, seconds in found.items()}


@dataclasses.dataclass(frozen=True)
class Program:
    """Something compiled, on its devices with all it needs.

    Attributes:
      call: runs it once.
      compiled: tells memory, and the text for a profile.
      compile_seconds: that making it took, or reading it from a cache.
      clips: that one run handles, on all devices.
      flops: of the model in one run, on all devices.
    """

    call: Callable[[], Any]
    compiled: Any
    compile_seconds: float
    clips: int
    flops: float


# --- What can be measured ------------------------------------------------------------


def train_program(experiment: configs.Experiment, mesh) -> Program:
    """The train step; every run takes the state that the one before gave."""
    boxed = jax.eval_shape(functools.partial(sample.abstract_state, experiment))
    places = state_shardings(boxed, mesh)
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
    boxed = jax.eval_shape(functools.partial(sample.abstract_state, experiment))
    places = state_shardings(boxed, mesh)
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

    jitted = jax.jit(laid_out(forward, mesh), out_shardings=batch_sharding(mesh))
    params = _initial(experiment, places, "params")
    compiled, seconds = _compile(jitted, params, batch, key)
    call = functools.partial(compiled, params, batch, key)
    return Program(call, compiled, seconds, size, size * flops_forward(experiment))


def sampler_program(experiment: configs.Experiment, mesh) -> Program:
    """The sampler of the config, guided as its sheets are; results reach the host."""
    boxed = jax.eval_shape(functools.partial(sample.abstract_state, experiment))
    params = _initial(experiment, state_shardings(boxed, mesh), "params")
    generator = sample.Generator(experiment, experiment.sampler, mesh)
    clips = -(-min(experiment.data.batch, CLIPS) // mesh.size) * mesh.size
    request = sample.Request(
        prompts=["a red cross moving left"] * clips,
        numbers=range(clips),
        seed=0,
        guidance=experiment.sheets.guidance,
        fps=experiment.sheets.fps,
        resolution=sample.resolution_of(experiment),
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
    """A batch as the data pipeline would give it, of noise, on its devices."""
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
    """A fresh state, or a part of one, where it belongs."""

    def init():
        state = nn.unbox(sample.abstract_state(experiment))
        return getattr(state, part) if part else state

    where = getattr(places, part) if part else places
    return jax.jit(init, out_shardings=where)()


def _compile(jitted, *arguments):
    """A program for these arguments, and the seconds that compiling it took."""
    began = time.perf_counter()
    compiled = jitted.lower(*arguments).compile()
    return compiled, time.perf_counter() - began


# --- Measuring -----------------------------------------------------------------------


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
        logger.info("Compiling the %s.", name)
        try:
            program = PROGRAMS[name](experiment, mesh)
            row = _measured(program, steps, peak * mesh.size)
            if profile:
                folder = profile / name.replace(" ", "_")
                row["profile"] = _profiled(program, folder, steps)
        except jax.errors.JaxRuntimeError as error:
            raise ValueError(_out_of_memory(error, name, experiment)) from error
        result["programs"][name] = row
    return result


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
            "compiled peak": memory.peak_memory_in_bytes,
            "arguments": memory.argument_size_in_bytes,
            "temporaries": memory.temp_size_in_bytes,
        }
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
        return profiling.tables(folder, program.compiled.as_text(), runs)
    except ValueError as error:
        logger.warning("%s", error)
        return None


def _out_of_memory(error: Exception, name: str, experiment) -> str:
    """What to do about a program that does not fit; anything else is raised again."""
    if "RESOURCE_EXHAUSTED" not in str(error):
        raise error
    reason = str(error).strip().splitlines()[0]
    return (
        f"The {name} of a batch of {experiment.data.batch} does not fit in a device's "
        f"memory ({reason}); use fewer --config.data.videos_per_batch and "
        "images_per_batch, or another --config.model.remat."
    )


# --- The verb ------------------------------------------------------------------------


def run(arguments) -> None:
    """`snapvideo bench`."""
    with configs.user_errors(), distributed.processes(vars(arguments), None):
        config = configs.load(arguments.config, arguments.overrides)
        target = _target(arguments)
        asked = {"forward pass": arguments.forward, "sampler": arguments.sampler}
        what = tuple(name for name in asked if asked[name]) or ("train step",)
        profile = arguments.profile and Path(arguments.profile)
        # The plan goes first: what is wrong with it shows before minutes of measuring.
        planned = target and cached_plan(config, target)
        result = bench(config, what, arguments.steps, profile)
        result["plan"] = planned
    if jax.process_index() == 0:
        print(json.dumps(result) if arguments.json else describe(result))


def _target(arguments) -> Target | None:
    """What --plan names, after a look at the other options.

    Raises:
      ValueError: an option cannot be used.
    """
    if arguments.steps < 1:
        raise ValueError(f"--steps={arguments.steps} is too small; use 1 or more.")
    if arguments.profile and Path(arguments.profile).is_file():
        raise ValueError(f"--profile={arguments.profile} is a file; name a folder.")
    if not arguments.plan:
        return None
    if arguments.forward or arguments.sampler:
        raise ValueError(
            "--plan is of the train step; leave out --forward and --sampler."
        )
    target = Target(arguments.plan)
    _ = target.chip  # refuses an unknown one
    return target


def describe(result: dict[str, Any]) -> str:
    """What was measured as lines of text."""
    mesh = ", ".join(f"{axis} {size}" for axis, size in result["mesh"].items())
    lines = [
        f"devices       {result['devices']} x {result['device']}: {mesh or 'no mesh'}",
        f"config        batch {result['batch']:,}, {result['dtype']}, "
        f"remat {result['remat']}",
    ]
    for name, row in result["programs"].items():
        lines += _lines(name, row)
    if result["peak_tflops"] is None:
        lines.append(
            "no MFU        the peak of this device is not known; give it as "
            "--config.run.peak_tflops"
        )
    if planned := result.get("plan"):
        lines += _plan_lines(planned, result)
    return "\n".join(lines)


def _lines(name: str, row: dict[str, Any]) -> list[str]:
    seconds, mfu = row["seconds"], row["mfu"]
    lines = [
        f"{name:<14}{seconds['median']:.4g} s, median of {row['runs']} (quartiles "
        f"{seconds['lower_quartile']:.4g} to {seconds['upper_quartile']:.4g})",
        f"  compiled    in {row['compile_seconds']:.1f} s",
        f"  clips       {row['clips_per_second']:.4g} a second, "
        f"{row['seconds_per_clip']:.4g} s each, {row['clips']:,} at once",
        f"  model       {row['model_tflops']:.4g} TFLOP, "
        f"{row['model_tflops_per_second']:.4g} TFLOP/s"
        + (f", MFU {mfu:.3f}" if mfu else ""),
    ]
    if row["bytes"]:
        sizes = (f"{key} {size / 1e9:.3g} GB" for key, size in row["bytes"].items())
        lines.append("  memory      " + ", ".join(sizes))
    return lines + profiling.describe(row.get("profile") or {})


def _plan_lines(planned: dict[str, Any], result: dict[str, Any]) -> list[str]:
    """The forecast, in the terms of what was measured."""
    if not planned["fits"]:
        return [f"plan          {planned['topology']}: the step does not fit there"]
    seconds = planned["seconds"]["step"]
    measured = result["programs"]["train step"]["seconds"]["median"]
    return [
        f"plan          {planned['topology']}, {planned['devices']} devices: "
        f"{seconds:.4g} s, MFU {planned['mfu']['step']:.3f}, peak "
        f"{planned['bytes']['peak'] / 1e9:.3g} GB a device",
        f"              measured / forecast = {measured / seconds:.3g}, on "
        f"{result['devices']} devices here",
    ]
