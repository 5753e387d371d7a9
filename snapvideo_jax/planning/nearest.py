"""What would fit, where a config does not: guessed first, then compiled.

What is known of the program that is too large makes the guesses better than those of a
search: its temporaries are scaled by what another choice would change of them.
"""

import dataclasses
import logging
from typing import Any

from snapvideo_jax.io.errors import first_line
from snapvideo_jax.io.messages import human_bytes
from snapvideo_jax.planning import cache
from snapvideo_jax.planning.compile import PlanRequest
from snapvideo_jax.planning.estimate import Choice, Estimator
from snapvideo_jax.planning.search import candidates

logger = logging.getLogger(__name__)

TRIES = 3
"""Most compilations that look for something that fits."""


@dataclasses.dataclass(frozen=True)
class Remedy:
    """A change after which a program may fit.

    Attributes:
      request: the changed one.
      changes: what the command line needs for it.
      peak: bytes of one device, guessed.
      distance: how unwelcome the change is; only an order.
    """

    request: PlanRequest
    changes: list[str]
    peak: float
    distance: tuple


def nearest(request: PlanRequest, result: dict[str, Any]) -> dict[str, Any]:
    """The smallest change with which a program fits that did not.

    Returns:
      ``changes`` of the command line, None where nothing seems to do; the ``peak`` of
      a device in bytes, compiled if ``verified``, else guessed; and ``tried``, how many
      were compiled.
    """
    make = _of_step if request.clips is None else _of_sampler
    limit = result["bytes"]["limit"]
    waiting = [each for each in make(request, result) if each.peak <= limit]
    waiting.sort(key=lambda remedy: remedy.distance)
    tried = 0
    while waiting and tried < TRIES:
        remedy, *waiting = waiting
        tried += 1
        logger.info("Does it fit with %s?", " ".join(remedy.changes))
        try:
            memory = cache.cached_plan(remedy.request)["bytes"]
        except ValueError as error:
            logger.info("It cannot be compiled: %s", first_line(error))
            continue
        if memory["peak"] <= limit:
            return _found(remedy.changes, memory["peak"], True, tried)
        # Others are taken to need as much more than guessed.
        more = memory["peak"] / remedy.peak
        waiting = [each for each in waiting if each.peak * more <= limit]
    if not waiting:
        return _found(None, None, False, tried)
    return _found(waiting[0].changes, waiting[0].peak, False, tried)


def _found(
    changes: list[str] | None, peak: float | None, verified: bool, tried: int
) -> dict[str, Any]:
    return {"changes": changes, "peak": peak, "verified": verified, "tried": tried}


def describe(found: dict[str, Any], limit: float) -> str:
    """What would fit, in words."""
    if found["changes"] is None:
        tried = found["tried"]
        others = "1 other was" if tried == 1 else f"{tried} others were"
        return f"would fit     nothing that is known; {others} compiled"
    how = "compiled" if found["verified"] else "a guess, not compiled"
    return (
        f"would fit     {' '.join(found['changes'])}: "
        f"{human_bytes(found['peak'], 4)} of {human_bytes(limit, 4)} a device ({how})"
    )


def _of_step(request: PlanRequest, result: dict[str, Any]) -> list[Remedy]:
    """Other choices on the same topology, then the same choice on larger ones."""
    config, target, devices = request.config, request.target, result["devices"]
    estimator, own = Estimator(config), Choice.of(config)
    known = estimator(own, target, devices)
    scale = max(result["bytes"]["peak"] - known.state, 0.0) / known.activations
    remedies = [
        Remedy(
            request=dataclasses.replace(request, config=choice.applied(config)),
            changes=choice.overrides(own),
            peak=guess.state + scale * guess.activations,
            distance=(0, len(choice.changed(own)), guess.seconds),
        )
        for choice, guess in candidates(config, target, devices).ranked
        if choice != own
    ]
    for power, larger in enumerate(target.larger(), start=1):
        try:
            guess = estimator(own, larger, devices * 2**power)
        except ValueError:
            continue
        remedies.append(
            Remedy(
                request=dataclasses.replace(request, target=larger),
                changes=[f"--topology={larger.topology}"],
                peak=guess.state + scale * guess.activations,
                distance=(power,),
            )
        )
    return remedies


def _of_sampler(request: PlanRequest, result: dict[str, Any]) -> list[Remedy]:
    """Fewer clips at once, parameters divided, or a larger topology."""
    config, target, devices = request.config, request.target, result["devices"]
    memory = result["bytes"]
    rest = max(memory["peak"] - memory["parameters"], 0.0)
    remedies, clips = [], request.clips
    while (clips := clips // 2) >= devices:
        changed = dataclasses.replace(request, clips=clips)
        peak = memory["parameters"] + rest * clips / request.clips
        distance = (0, request.clips // clips)
        remedies.append(Remedy(changed, [f"--batch={clips}"], peak, distance))
    fsdp = config.mesh.fsdp
    while (fsdp := 2 * fsdp) <= devices // target.slices:
        divided = config.copy_and_resolve_references()
        divided.mesh.update(fsdp=fsdp, data=-1)
        peak = memory["parameters"] * config.mesh.fsdp / fsdp + rest
        remedies.append(
            Remedy(
                request=dataclasses.replace(request, config=divided),
                changes=[f"--config.mesh.fsdp={fsdp}", "--config.mesh.data=-1"],
                peak=peak,
                distance=(1, fsdp),
            )
        )
    for power, larger in enumerate(target.larger(), start=1):
        remedies.append(
            Remedy(
                request=dataclasses.replace(request, target=larger),
                changes=[f"--topology={larger.topology}"],
                peak=memory["parameters"] + rest / 2**power,
                distance=(2, power),
            )
        )
    return remedies
