"""A search for the fastest mesh, remat policy and microbatches for a topology.

Every choice is estimated, and those with the shortest estimates are compiled. Each
compilation is cached, so a search that was interrupted resumes.
"""

import dataclasses
import itertools
import logging
import re
from collections import Counter
from typing import Any

from ml_collections import ConfigDict

from snapvideo_jax import config as configs
from snapvideo_jax.io.errors import first_line
from snapvideo_jax.io.messages import human_bytes
from snapvideo_jax.planning import cache
from snapvideo_jax.planning.compile import PlanRequest
from snapvideo_jax.planning.estimate import FIELDS, REMATS, Choice, Estimate, Estimator
from snapvideo_jax.planning.target import Target, topology_devices

logger = logging.getLogger(__name__)

MICROBATCHES = (1, 2, 4, 8)
TENSOR = (1, 2, 4)
"""Larger sizes were always slower: latents are summed over this axis twice a layer."""
NO_LESS = "needs at least as much memory as one that does not fit"


@dataclasses.dataclass(frozen=True)
class Candidates:
    """Choices that may fit a topology.

    Attributes:
      ranked: with their estimates, sorted by the estimated time.
      left_out: number of the other choices by reason.
    """

    ranked: list[tuple[Choice, Estimate]]
    left_out: Counter


def candidates(
    config: ConfigDict,
    target: Target,
    devices: int,
    fixed: frozenset[str] = frozenset(),
) -> Candidates:
    """All choices for a number of devices.

    Args:
      fixed: fields of the config that do not change, for example "mesh.fsdp".
    """
    own = Choice.of(config)
    parts = configs.build(config).model.resource_estimate().parts
    powers = [2**power for power in range((devices // target.slices).bit_length())]
    values = {
        "remat": REMATS,
        "microbatches": MICROBATCHES,
        "fsdp": powers,
        "context": [size for size in powers if parts % size == 0],
        "tensor": TENSOR,
    }
    for name, field in FIELDS.items():
        if field in fixed:
            values[name] = (own[name],)
    estimator, ranked, left_out = Estimator(config), [], Counter()
    for combination in itertools.product(*values.values()):
        choice = Choice(*combination)
        try:
            estimate = estimator(choice, target, devices)
        except ValueError as error:
            left_out[re.sub(r"\d+", "N", str(error).partition(";")[0])] += 1
            continue
        if estimate.samples % 1:
            left_out["the batch does not divide"] += 1
        elif estimate.state > target.chip.hbm_bytes:
            left_out["the state alone is too large"] += 1
        else:
            ranked.append((choice, estimate))
    ranked.sort(key=lambda item: item[1].seconds)
    return Candidates(ranked, left_out)


def search(
    config: ConfigDict, target: Target, limit: int, fixed: frozenset[str] = frozenset()
) -> dict[str, Any]:
    """Compiles up to ``limit`` choices, the config's own first, and ranks them.

    Choices in the cache do not count towards the limit.

    Returns:
      ``rows``, the fastest first and those that do not fit last, each with its reason;
      ``overrides`` of the fastest, None where none fits; ``left_out``, the number of
      choices not considered by reason; and ``not_tried``, the number not compiled.

    Raises:
      ValueError: the config or the topology cannot be used.
    """
    devices = len(topology_devices(target))
    found = candidates(config, target, devices, fixed)
    own = Choice.of(config)
    waiting = [choice for choice, _ in found.ranked]
    waiting.sort(key=lambda choice: choice != own)
    rows: list[dict[str, Any]] = []
    compiled = 0
    while waiting:
        choice = waiting[0]
        request = PlanRequest(choice.applied(config), target)
        is_known = cache.is_cached(request)
        if compiled == limit and not is_known:
            break
        compiled += not is_known
        row = _row(choice, own, request)
        rows.append(row)
        waiting = waiting[1:]
        logger.info("%d of %d: %s: %s", compiled, limit, choice, outcome(row))
        if row.get("peak", 0) > target.chip.hbm_bytes:
            smaller = [each for each in waiting if not each.needs_as_much_as(choice)]
            found.left_out[NO_LESS] += len(waiting) - len(smaller)
            waiting = smaller
    rows.sort(key=lambda row: row.get("seconds", float("inf")))
    best = rows[0] if rows and "seconds" in rows[0] else None
    return {
        "topology": target.topology,
        "slices": target.slices,
        "devices": devices,
        "rows": rows,
        "overrides": best and best["overrides"],
        "left_out": dict(found.left_out),
        "not_tried": len(waiting),
    }


def _row(choice: Choice, own: Choice, request: PlanRequest) -> dict[str, Any]:
    """The plan of a choice, or the reason why there is none."""
    row = {
        "choice": dataclasses.asdict(choice),
        "name": str(choice),
        "is_own": choice == own,
        "overrides": choice.overrides(own),
    }
    try:
        result = cache.cached_plan(request)
    except ValueError as error:
        return row | {"reason": first_line(error)}
    memory = result["bytes"]
    row |= {"peak": memory["peak"], "limit": memory["limit"]}
    if not result["fits"]:
        short = human_bytes(memory["peak"] - memory["limit"], 4)
        return row | {"reason": f"does not fit by {short} a device"}
    return row | {"seconds": result["seconds"]["step"], "mfu": result["mfu"]["step"]}


def outcome(row: dict[str, Any]) -> str:
    """The result of a choice as text."""
    if "reason" in row:
        return row["reason"]
    return (
        f"{row['seconds']:.4g} s a step, MFU {row['mfu']:.3f}, "
        f"{human_bytes(row['peak'])} of {human_bytes(row['limit'])} a device"
    )


def describe(result: dict[str, Any]) -> str:
    """What `search` returns as lines of text."""
    width = max((len(row["name"]) for row in result["rows"]), default=0)
    lines = [f"{result['slices']} x {result['topology']}, fastest first"]
    for row in result["rows"]:
        own = "  (the config's own)" if row["is_own"] else ""
        lines.append(f"  {row['name']:{width}}  {outcome(row)}{own}")
    if result["overrides"] is None:
        lines.append("None of these fits.")
    else:
        lines.append(
            "fastest       " + (" ".join(result["overrides"]) or "the config's own")
        )
    for reason, count in result["left_out"].items():
        if count:
            lines.append(f"left out      {count}: {reason}")
    if result["not_tried"]:
        lines.append(
            f"not tried     {result['not_tried']} that are slower by estimate; run the "
            "same command to continue"
        )
    return "\n".join(lines)
