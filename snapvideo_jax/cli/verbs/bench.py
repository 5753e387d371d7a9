"""`snapvideo bench`."""

import json
from pathlib import Path

import jax

from snapvideo_jax import config as configs
from snapvideo_jax.cli.options import options
from snapvideo_jax.io.options import check_least
from snapvideo_jax.parallel import processes
from snapvideo_jax.parallel.process_settings import ProcessOptions
from snapvideo_jax.planning import PlanRequest, Target, cached_plan
from snapvideo_jax.planning.bench import data, models
from snapvideo_jax.planning.bench.measure import bench
from snapvideo_jax.planning.bench.report import describe


def run(arguments) -> None:
    """`snapvideo bench`."""
    if arguments.what == "models":
        models.run(arguments)
        return
    if arguments.what == "data":
        _check_what_is_measured(arguments)
        data.run(arguments)
        return
    with processes.processes(options(ProcessOptions, arguments), None):
        _check_what_is_measured(arguments)
        config = configs.load(arguments.config, arguments.overrides)
        target = _target(arguments)
        asked = {"forward pass": arguments.forward, "sampler": arguments.sampler}
        what = tuple(name for name in asked if asked[name]) or ("train step",)
        profile = arguments.profile and Path(arguments.profile)
        # The plan goes first: what is wrong with it shows before minutes of measuring.
        planned = target and cached_plan(PlanRequest(config, target))
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
