"""The verb `snapvideo plan`: checks what is asked for, answers it, prints it."""

import json
from pathlib import Path

from snapvideo_jax import config as configs
from snapvideo_jax.parallel import layout_report
from snapvideo_jax.planning import (
    cache,
    compiler_flags,
    golden_plans,
    nearest,
    report,
    search,
)
from snapvideo_jax.planning.compile import PlanRequest, placements_of
from snapvideo_jax.planning.target import Target
from snapvideo_jax.sampling.options import BATCH

SEARCHED = 12
"""Compilations of a search."""


def run(arguments) -> None:
    """`snapvideo plan`."""
    check(arguments)
    if arguments.flags:
        compiler_flags.write(Path(arguments.flags))
    if arguments.golden:
        golden_plans.regenerate(arguments.golden)
    if not arguments.config:
        return
    result, text = _answer(arguments)
    print(json.dumps(result) if arguments.json else text)


def check(arguments) -> None:
    """Refuses options that do not go together, before anything is compiled.

    Raises:
      ValueError: names them and what would do.
    """
    if not (arguments.config or arguments.flags or arguments.golden):
        raise ValueError("--config is missing; it says what is planned.")
    if arguments.config and not arguments.topology:
        raise ValueError("--topology is missing; use CHIP:SHAPE, as v5p:4x4x8.")
    if arguments.golden and (arguments.config or arguments.topology):
        raise ValueError(
            "--golden has configs and topologies of its own; use it without --config "
            "and --topology."
        )
    chosen = [
        f"--{name}"
        for name in ("sampler", "search", "layout")
        if getattr(arguments, name)
    ]
    if len(chosen) > 1:
        raise ValueError(f"{' and '.join(chosen)} do not go together; use one of them.")
    for name, mode in (("batch", "sampler"), ("search_limit", "search")):
        value = getattr(arguments, name)
        if value is None:
            continue
        if not getattr(arguments, mode):
            raise ValueError(f"--{name} is for --{mode} only; use it with that.")
        if value < 1:
            raise ValueError(f"--{name}={value} is too small; use at least 1.")


def _answer(arguments) -> tuple[dict, str]:
    """The answer as plain data and as text."""
    config = configs.load(arguments.config, arguments.overrides)
    target = Target(arguments.topology, arguments.slices)
    if arguments.layout:
        rows = layout_report.report(*placements_of(config, target))
        return {"layout": rows}, layout_report.describe(rows)
    if arguments.search:
        limit = arguments.search_limit or SEARCHED
        fixed = frozenset(map(_field, arguments.overrides))
        found = search.search(config, target, limit, fixed)
        return found, search.describe(found)
    clips = (arguments.batch or BATCH) if arguments.sampler else None
    request = PlanRequest(config, target, clips)
    result = cache.cached_plan(request)
    if not result["fits"]:
        result["nearest"] = nearest.nearest(request, result)
    return result, report.describe(result)


def _field(override: str) -> str:
    """The field that an override of the command line sets, as mesh.fsdp."""
    return override.partition("config.")[2].partition("=")[0]
