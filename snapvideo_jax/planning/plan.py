"""`plan`: what a config needs on a TPU topology, and the settings that are fastest."""

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from snapvideo_jax.parallel import layout_report
from snapvideo_jax.planning import cache, nearest, report, search
from snapvideo_jax.planning.compile import PlanRequest, placements_of
from snapvideo_jax.planning.target import Target
from snapvideo_jax.sampling.options import BATCH

SEARCH_LIMIT = 12
"""Compilations of a search by default."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """What is planned, and for which topology.

    Attributes:
      topology: chip and shape of a slice, for example "v5p:4x4x8".
      slices: number of such slices; 1 or more.
      sampler: plans the sampler in place of the train step.
      batch: clips that the sampler generates at once; None stands for 64.
      search: compiles settings of remat, microbatches and mesh and ranks them.
      search_limit: compilations of the search; None stands for 12.
      layout: reports how parameters are sharded, without compiling.

    Raises:
      ValueError: a value is out of range, or options contradict each other.
    """

    topology: str
    slices: int = 1
    sampler: bool = False
    batch: int | None = None
    search: bool = False
    search_limit: int | None = None
    layout: bool = False

    def __post_init__(self):
        modes = [
            f"--{name}"
            for name in ("sampler", "search", "layout")
            if getattr(self, name)
        ]
        if len(modes) > 1:
            raise ValueError(
                f"{' and '.join(modes)} exclude each other; use one of them."
            )
        for name, mode in (("batch", "sampler"), ("search_limit", "search")):
            value = getattr(self, name)
            if value is not None and not getattr(self, mode):
                raise ValueError(f"--{name} requires --{mode}; add it.")
            if value is not None and value < 1:
                raise ValueError(f"--{name}={value} is too small; use 1 or more.")


def plan(
    config: ConfigDict, options: PlanOptions, fixed: frozenset[str] = frozenset()
) -> dict[str, Any]:
    """Compiles a config's train step or sampler for a topology.

    Args:
      config: of the experiment.
      options: what is planned.
      fixed: fields of the config that a search leaves as they are, for example
        "mesh.fsdp".

    Returns:
      The plan as from `compile_plan`, with ``nearest`` (as from `nearest.nearest`)
      where it does not fit; the result of `search.search`; or ``layout``, the rows of
      `layout_report.report`.

    Raises:
      ValueError: the config or the topology cannot be used, or the compiler refuses the
        program.
    """
    target = Target(options.topology, options.slices)
    if options.layout:
        return {"layout": layout_report.report(*placements_of(config, target))}
    if options.search:
        limit = options.search_limit or SEARCH_LIMIT
        return search.search(config, target, limit, fixed)
    clips = (options.batch or BATCH) if options.sampler else None
    request = PlanRequest(config, target, clips)
    result = cache.cached_plan(request)
    if not result["fits"]:
        result["nearest"] = nearest.nearest(request, result)
    return result


def describe(result: dict[str, Any]) -> str:
    """What `plan` returns as lines of text."""
    if "layout" in result:
        return layout_report.describe(result["layout"])
    return search.describe(result) if "rows" in result else report.describe(result)
