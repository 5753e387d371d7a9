"""The verb `snapvideo bench`, and what it prints."""

import json
from pathlib import Path
from typing import Any

import jax

from snapvideo_jax import config as configs
from snapvideo_jax import distributed
from snapvideo_jax.bench import data, models, traces
from snapvideo_jax.bench.measure import bench
from snapvideo_jax.options import check_least
from snapvideo_jax.plan import Question, Target, cached


def run(arguments) -> None:
    """`snapvideo bench`."""
    if arguments.what == "models":
        with configs.user_errors():
            models.run(arguments)
        return
    if arguments.what == "data":
        with configs.user_errors():
            _check_what_is_measured(arguments)
            data.run(arguments)
        return
    with configs.user_errors(), distributed.processes(vars(arguments), None):
        _check_what_is_measured(arguments)
        config = configs.load(arguments.config, arguments.overrides)
        target = _target(arguments)
        asked = {"forward pass": arguments.forward, "sampler": arguments.sampler}
        what = tuple(name for name in asked if asked[name]) or ("train step",)
        profile = arguments.profile and Path(arguments.profile)
        # The plan goes first: what is wrong with it shows before minutes of measuring.
        planned = target and cached(Question(config, target))
        result = bench(config, what, arguments.steps, profile)
        result["plan"] = planned
    if jax.process_index() == 0:
        print(json.dumps(result) if arguments.json else describe(result))


def _check_what_is_measured(arguments) -> None:
    """Refuses what only `bench models` takes, and a missing config, which it has.

    Raises:
      ValueError: names the option.
    """
    for name in ("only", "divide", "batch", "by_part"):
        if getattr(arguments, name):
            raise ValueError(f"--{name} is for bench models only; leave it out.")
    if not arguments.config:
        raise ValueError("--config is missing; it says what is measured.")


def _target(arguments) -> Target | None:
    """What --plan names, after a look at the other options.

    Raises:
      ValueError: an option cannot be used.
    """
    check_least(arguments, {"steps": 1})
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
    return lines + traces.describe(row.get("profile") or {})


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
