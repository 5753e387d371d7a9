"""Post-hoc EMA: power-function averages of any length, reconstructed from snapshots.

The average of exponent gamma weighs the parameters of time ``s`` by a *profile*,

    p(s) = (gamma + 1) s^gamma / t^(gamma + 1)    for 0 < s <= t, its step

whose width is proportional to ``t``; its *width* is its standard deviation, divided by
``t``. Averages of two widths, saved at several steps, span many other profiles: `solve`
finds the one nearest to a wanted profile.

From the equations of arXiv 2312.02696 (Sec. 3.1, 3.2, App. C). Its update,
``beta = (1 - 1/t)^(gamma + 1)``, gives step ``k`` the weight
``(k^(gamma+1) - (k-1)^(gamma+1)) / t^(gamma+1)``, the integral of ``p`` over that step,
so equations for profiles hold for training steps exactly.
"""

import dataclasses
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from orbax.checkpoint import v1 as ocp

from snapvideo_jax import config as configs
from snapvideo_jax import optim
from snapvideo_jax.config import Experiment
from snapvideo_jax.optim import gamma
from snapvideo_jax.training.checkpoints.ema_snapshots import (
    EmaSnapshotReader,
    UnreadableSnapshot,
    budget,
)
from snapvideo_jax.training.run_folder import RunFolder

logger = logging.getLogger(__name__)

PLANNED_LENGTHS = (0.03, 0.04, 0.05, 0.06, 0.075, 0.1, 0.125, 0.15, 0.2, 0.25)
"""Lengths of `plan`, unless others are given."""

CANDIDATE_LENGTHS = np.geomspace(0.003, 0.99 * optim.WIDEST, 200).tolist()
"""Lengths among which `reconstruct` searches those that snapshots can give."""


def half_life_of(width: float, step: int) -> float:
    """The half-life, in steps, of the exponential average as wide as this one."""
    return width * step * math.log(2)


def width_of(half_life: float, step: int) -> float:
    """The width of the power-function average as wide as one of this half-life."""
    return half_life / (step * math.log(2))


@dataclasses.dataclass(frozen=True)
class Average:
    """A power-function average: its width, and its step."""

    width: float
    step: int


def inner_products(ours: Sequence[Average], theirs: Sequence[Average]) -> np.ndarray:
    """Integrals of the products of profiles: a row for each of ours."""
    (g, t), (h, u) = _exponents(ours), _exponents(theirs)
    g, t = g[:, None], t[:, None]
    least = np.minimum(t, u)
    # (least / t)^(g+1): the 20th power of a step alone would be a large number.
    scaled = (least / t) ** (g + 1) * (least / u) ** (h + 1)
    return (g + 1) * (h + 1) / (g + h + 1) * scaled / least


def _exponents(averages: Sequence[Average]) -> tuple[np.ndarray, np.ndarray]:
    """Exponents and steps of averages."""
    exponents = {width: gamma(width) for width in {a.width for a in averages}}
    return (
        np.array([exponents[average.width] for average in averages]),
        np.array([average.step for average in averages], np.float64),
    )


@dataclasses.dataclass(frozen=True)
class Solution:
    """A profile as a linear combination of others.

    Attributes:
      weights: of the averages; their sum is 1.
      error: norm of the profile's error, relative to the norm of the profile.
      amplification: of errors of single averages, such as rounding: the norm of the
        weights.
    """

    weights: np.ndarray
    error: float
    amplification: float


def solve(averages: Sequence[Average], wanted: Sequence[Average]) -> list[Solution]:
    """The linear combinations of averages whose profiles are nearest to the wanted.

    Least squares over profiles, in closed form and float64 [Sec. 3.2, App. C]. Differs:
    the weights are constrained to a sum of 1, as those of any average are. It costs
    some 3% of the error where that is a tenth, and no parameter shrinks by what is
    missing from the sum.

    Args:
      averages: of the snapshots, without duplicates.
      wanted: of any width, at the newest step of ``averages``.

    Returns:
      A solution for each wanted average.
    """
    size = len(averages)
    gram, aims = inner_products(averages, averages), inner_products(averages, wanted)
    unit = np.diag(gram) ** -0.5  # profiles of norm 1 keep the system well scaled
    system = np.zeros((size + 1, size + 1))
    system[:size, :size] = gram * unit * unit[:, None]
    system[size, :size] = system[:size, size] = unit
    sides = np.vstack([aims * unit[:, None], np.ones(len(wanted))])
    solved = np.linalg.lstsq(system, sides, rcond=None)[0]
    found = []
    for aim, column, each in zip(aims.T, solved.T, wanted, strict=True):
        weights = column[:size] * unit
        norm = inner_products([each], [each]).item()
        square = norm - 2 * weights @ aim + weights @ gram @ weights
        error = math.sqrt(max(square, 0.0) / norm)
        found.append(Solution(weights, error, float(np.linalg.norm(weights))))
    return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmaOptions:
    """Which averages `reconstruct` writes, or `plan` reports.

    Attributes:
      workdir: folder of the run; None for a run that is only planned.
      lengths: relative standard deviations of the averages' profiles.
      half_life: further lengths, as half-lives in steps of exponential averages.
      step: of a snapshot; None for the newest.
      out: folder of the averages; None for ``ema_profiles`` in the workdir.
      most_error: largest relative error of a profile that is written.
    """

    workdir: Path | None = None
    lengths: tuple[float, ...] = ()
    half_life: tuple[float, ...] = ()
    step: int | None = None
    out: Path | None = None
    most_error: float = 0.1

    def __post_init__(self):
        for length in self.lengths:
            optim.check_width(length, "--length")

    def averages_at(self, step: int) -> list[Average]:
        """The averages asked for, at a step.

        Raises:
          ValueError: a half-life is too long for the step.
        """
        widths = list(self.lengths)
        for half_life in self.half_life:
            widths.append(width_of(half_life, step))
            optim.check_width(widths[-1], f"--half_life={half_life:g} at step {step}")
        return [Average(width, step) for width in widths]


def reconstruct(options: EmaOptions) -> list[dict[str, Any]]:
    """Writes averages of a run, and returns the folder and profile of each.

    A snapshot that cannot be read is logged and left out.

    Raises:
      ValueError: the run has no snapshots, the other snapshots cannot give a length, or
        the step has no snapshot.
    """
    if options.workdir is None:
        raise ValueError("--workdir is missing; --config can only be planned.")
    if not options.lengths and not options.half_life:
        raise ValueError("No length is given; use --length, such as --length=0.1.")
    experiment = configs.build(configs.of_workdir(options.workdir))
    with EmaSnapshotReader(experiment, options.workdir) as reader:
        steps = reader.existing_steps()
        if missing := [step for step in reader.steps if step not in steps]:
            logger.warning("Snapshots are missing and left out, of steps %s.", missing)
        while True:
            try:
                return _reconstruct(reader, _until(steps, options.step), options)
            except UnreadableSnapshot as error:
                logger.warning("%s It is left out.", error)
                steps = [step for step in steps if step != error.step]


def _reconstruct(
    reader: EmaSnapshotReader, steps: list[int], options: EmaOptions
) -> list[dict[str, Any]]:
    """Writes the averages at the last of ``steps`` from the snapshots of all."""
    out, last = options.out or options.workdir / "ema_profiles", steps[-1]
    averages = [Average(w, s) for s in steps for w in reader.widths]
    wanted = options.averages_at(last)
    solutions = [_solved(averages, each, options.most_error) for each in wanted]
    written = []
    for each, solution in zip(wanted, solutions, strict=True):
        weights: dict[int, dict[float, float]] = {step: {} for step in steps}
        for average, weight in zip(averages, solution.weights, strict=True):
            weights[average.step][average.width] = float(weight)
        about = _about(each, solution, steps)
        folder = out / f"{each.width:.6g}-at-{last}"
        ocp.save_checkpointables(
            folder.absolute(),
            {"params": reader.combine(weights)},
            overwrite=True,
            custom_metadata=about,
        )
        written.append({"folder": str(folder), **about})
    return written


def plan(options: EmaOptions, experiment: Experiment | None = None) -> dict[str, Any]:
    """The disk that the snapshots of a whole run take, and the errors of lengths.

    Args:
      options: lengths and step; without lengths `PLANNED_LENGTHS`.
      experiment: of a run to be planned; None for the one in ``options.workdir``.

    Raises:
      ValueError: the config has no power-function averages.
    """
    if experiment is None:
        experiment = configs.build(configs.of_workdir(options.workdir))
    optimizer = experiment.optimizer
    if not optimizer.ema_widths:
        raise ValueError(
            "optimizer.ema_widths=() tracks nothing; use (0.05,0.1), and set "
            "optimizer.ema_snapshot_steps."
        )
    steps = _until(optimizer.snapshots(), options.step)
    averages = [Average(w, s) for s in steps for w in optimizer.ema_widths]
    last = steps[-1]
    wanted = options.averages_at(last)
    wanted = wanted or [Average(length, last) for length in PLANNED_LENGTHS]
    found = {"disk": budget(experiment), "step": last}
    if options.workdir is not None:
        files = RunFolder(options.workdir).ema.rglob("*")
        found["bytes_there"] = sum(x.stat().st_size for x in files if x.is_file())
    found["lengths"] = [
        _about(each, solution, steps)
        for each, solution in zip(wanted, solve(averages, wanted), strict=True)
    ]
    return found


def _until(steps: Sequence[int], step: int | None) -> list[int]:
    """The steps up to ``step``, which has to be among them; all for None."""
    if not steps:
        raise ValueError("No snapshot can be read.")
    if step is not None and step not in steps:
        near = sorted(sorted(steps, key=lambda s: abs(s - step))[:4])
        raise ValueError(f"--step={step} has no snapshot; the nearest are of {near}.")
    return [each for each in steps if step is None or each <= step]


def _solved(averages, wanted: Average, most_error: float) -> Solution:
    """The solution for an average; refuses one with too large an error."""
    (solution,) = solve(averages, [wanted])
    if solution.error <= most_error:
        return solution
    tried = [Average(length, wanted.step) for length in CANDIDATE_LENGTHS]
    errors = [each.error for each in solve(averages, tried)]
    given = [
        length
        for length, error in zip(CANDIDATE_LENGTHS, errors, strict=True)
        if error <= most_error
    ]
    widths = {average.width for average in averages}
    low, high = min([*given, *widths]), max([*given, *widths])
    raise ValueError(
        f"The snapshots up to step {wanted.step} cannot give a length of "
        f"{wanted.width:.4g}: the error of its profile would be {solution.error:.1%} "
        f"(--most_error={most_error:g}). Use {low:.3f} to {high:.3f}."
    )


def _about(wanted: Average, solution: Solution, steps) -> dict[str, Any]:
    """What is reported of an average, and saved with it."""
    return {
        "length": wanted.width,
        "step": wanted.step,
        "half_life": half_life_of(wanted.width, wanted.step),
        "error": solution.error,
        "amplification": solution.amplification,
        "snapshots": len(steps),
    }
