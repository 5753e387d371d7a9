"""The smallest change with which a program fits: estimated first, then compiled.

The compiled size of the program that does not fit makes the estimates better than those
of a search: its temporaries are scaled by the ratio of the estimated activations.
"""

import dataclasses
import logging
from collections.abc import Iterator
from typing import Any

from snapvideo_jax.io.errors import first_line
from snapvideo_jax.io.messages import human_bytes
from snapvideo_jax.planning import cache
from snapvideo_jax.planning.compile import PlanRequest
from snapvideo_jax.planning.estimate import Choice, Estimator
from snapvideo_jax.planning.search import candidates

logger = logging.getLogger(__name__)

TRIES = 3
"""Most compilations that look for a change that fits."""


@dataclasses.dataclass(frozen=True)
class Remedy:
    """A change after which a program may fit.

    Attributes:
      request: the changed one.
      changes: options of the command line that make the change.
      peak: estimated bytes of one device.
    """

    request: PlanRequest
    changes: list[str]
    peak: float


def nearest(request: PlanRequest, result: dict[str, Any]) -> dict[str, Any]:
    """The smallest change with which a program fits.

    Args:
      request: of a plan that does not fit.
      result: the plan.

    Returns:
      ``changes`` of the command line, None where none is found; the ``peak`` of a
      device in bytes, compiled if ``verified``, else estimated; and ``tried``, the
      number of compilations.
    """
    remedies = _of_step if request.clips is None else _of_sampler
    limit = result["bytes"]["limit"]
    waiting = [each for each in remedies(request, result) if each.peak <= limit]
    tried = 0
    while waiting and tried < TRIES:
        remedy, *waiting = waiting
        tried += 1
        logger.info("Compiling with %s.", " ".join(remedy.changes))
        try:
            peak = cache.cached_plan(remedy.request)["bytes"]["peak"]
        except ValueError as error:
            logger.info("It cannot be compiled: %s", first_line(error))
            continue
        if peak <= limit:
            return dict(changes=remedy.changes, peak=peak, verified=True, tried=tried)
        # The others are assumed to exceed their estimates by the same factor.
        factor = peak / remedy.peak
        waiting = [each for each in waiting if each.peak * factor <= limit]
    changes, peak = (waiting[0].changes, waiting[0].peak) if waiting else (None, None)
    return dict(changes=changes, peak=peak, verified=False, tried=tried)


def describe(found: dict[str, Any], limit: float) -> str:
    """What `nearest` returns as a line of text."""
    if found["changes"] is None:
        tried = found["tried"]
        compiled = f"{tried} other{'s' * (tried != 1)} compiled"
        return f"would fit     no change that is known; {compiled}"
    how = "compiled" if found["verified"] else "estimated, not compiled"
    return (
        f"would fit     {' '.join(found['changes'])}: "
        f"{human_bytes(found['peak'], 4)} of {human_bytes(limit, 4)} a device ({how})"
    )


def _of_step(request: PlanRequest, result: dict[str, Any]) -> Iterator[Remedy]:
    """Other choices on the same topology, those with the fewest changes first, then the
    same choice on larger topologies."""
    config, target, devices = request.config, request.target, result["devices"]
    estimator, own = Estimator(config), Choice.of(config)
    known = estimator(own, target, devices)
    scale = max(result["bytes"]["peak"] - known.state, 0.0) / known.activations
    ranked = candidates(config, target, devices).ranked
    for choice, estimate in sorted(ranked, key=lambda item: len(item[0].changed(own))):
        if choice != own:
            changed = dataclasses.replace(request, config=choice.applied(config))
            peak = estimate.state + scale * estimate.activations
            yield Remedy(changed, choice.overrides(own), peak)
    for remedy, factor in _larger(request):
        try:
            estimate = estimator(own, remedy.request.target, devices * factor)
        except ValueError:
            continue
        peak = estimate.state + scale * estimate.activations
        yield dataclasses.replace(remedy, peak=peak)


def _of_sampler(request: PlanRequest, result: dict[str, Any]) -> Iterator[Remedy]:
    """Fewer clips at once, then sharded parameters, then larger topologies."""
    config, devices, memory = request.config, result["devices"], result["bytes"]
    parameters, clips = memory["parameters"], request.clips
    rest = max(memory["peak"] - parameters, 0.0)
    while (clips := clips // 2) >= devices:
        changed = dataclasses.replace(request, clips=clips)
        peak = parameters + rest * clips / request.clips
        yield Remedy(changed, [f"--batch={clips}"], peak)
    fsdp = config.mesh.fsdp
    while (fsdp := 2 * fsdp) <= devices // request.target.slices:
        sharded = config.copy_and_resolve_references()
        sharded.mesh.update(fsdp=fsdp, data=-1)
        yield Remedy(
            dataclasses.replace(request, config=sharded),
            [f"--config.mesh.fsdp={fsdp}", "--config.mesh.data=-1"],
            parameters * config.mesh.fsdp / fsdp + rest,
        )
    for remedy, factor in _larger(request):
        yield dataclasses.replace(remedy, peak=parameters + rest / factor)


def _larger(request: PlanRequest) -> Iterator[tuple[Remedy, int]]:
    """Larger topologies, without estimates, and the factor of their devices."""
    for power, target in enumerate(request.target.larger(), start=1):
        changed = dataclasses.replace(request, target=target)
        yield Remedy(changed, [f"--topology={target.topology}"], 0.0), 2**power
