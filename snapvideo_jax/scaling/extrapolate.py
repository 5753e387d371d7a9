"""A sweep's law extrapolated to larger budgets: size, samples, loss, chip-hours."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from snapvideo_jax.io.files import write_json
from snapvideo_jax.planning.target import Target
from snapvideo_jax.scaling import law as laws
from snapvideo_jax.scaling.law import Law
from snapvideo_jax.scaling.runs import results
from snapvideo_jax.scaling.sweep import SweepRun

FinishedRuns = Sequence[tuple[SweepRun, dict[str, Any]]]
LAW = "law.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitOptions:
    """How a sweep's law is fitted and extrapolated.

    Attributes:
      out: folder of the sweep.
      flops: further budgets of training FLOPs to forecast the best size for.
      plan: a file of docs/plans, whose MFU converts FLOPs to chip-hours.
      draws: resamples of the bootstrap; 20 or more.
      seed: of the bootstrap.
    """

    out: Path
    flops: tuple[float, ...] = ()
    plan: Path | None = None
    draws: int = 200
    seed: int = 0


def fit(options: FitOptions) -> dict[str, Any]:
    """Fits the law to a sweep's finished runs and writes law.json.

    Returns:
      As `fit_runs`, with the rows of `extrapolate` as ``ahead`` and the ``plan``.

    Raises:
      ValueError: as `sweep.read`, `fit_runs` and `extrapolate`.
    """
    found = fit_runs(results(options.out), options.draws, options.seed)
    rows = extrapolate(found, options.flops, options.plan)
    found |= {"ahead": rows, "plan": options.plan and str(options.plan)}
    write_json(options.out / LAW, found)
    return found


def fit_runs(found: FinishedRuns, draws: int, seed: int) -> dict[str, Any]:
    """The law of finished runs with confidence intervals, and each budget's best size.

    Args:
      found: finished runs and their results.
      draws, seed: of the bootstrap.

    Raises:
      ValueError: as `law.fit`.
    """
    flops, samples, losses = columns(found)
    law = laws.fit(flops, samples, losses)
    drawn = laws.bootstrap(law, flops, samples, losses, draws, seed)
    numbers = ("floor", "a", "b", "alpha", "beta", "exponent")
    budgets = sorted({run.budget for run, _ in found})
    minima = []
    for budget in budgets:
        chosen = np.array([run.budget == budget for run, _ in found])
        least = laws.parabola_minimum(flops[chosen], losses[chosen])
        minima.append(
            {
                "budget": budget,
                "parabola": least and {"flops": least[0], "loss": least[1]},
                "law": _best(law, drawn, budget),
            }
        )
    errors = np.abs(np.log(losses / law.loss(flops, samples)))
    return {
        "runs": len(found),
        "law": vars(law) | {"exponent": law.exponent},
        "intervals": {
            name: laws.interval(getattr(each, name) for each in drawn)
            for name in numbers
        },
        "largest_error": float(errors.max()),
        "median_error": float(np.median(errors)),
        "budgets": minima,
        "drawn": [vars(each) for each in drawn],
        "parameters": _parameters(found),
    }


def columns(found: FinishedRuns) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """FLOPs a sample, samples, and losses of the runs."""
    rows = [(run.flops, run.samples, result["loss"]) for run, result in found]
    flops, samples, losses = np.array(rows, float).reshape(-1, 3).T
    return flops, samples, losses


def extrapolate(
    fit: dict[str, Any], budgets: Sequence[float], plan: Path | None
) -> list[dict[str, Any]]:
    """The best size at further budgets, and its cost.

    Args:
      fit: as from `fit_runs`.
      budgets: of training FLOPs.
      plan: a file of docs/plans, whose MFU converts FLOPs; None omits chip-hours.

    Raises:
      ValueError: the file is not a plan of a train step.
    """
    law = law_from_json(fit["law"])
    drawn = [law_from_json(each) for each in fit["drawn"]]
    rate = flops_per_chip_hour(plan) if plan else None
    scale, power = fit["parameters"]
    rows = []
    for budget in budgets:
        best = _best(law, drawn, budget)
        rows.append(
            {
                "budget": budget,
                **best,
                "parameters": scale * best["flops"] ** power if power else None,
                "chip_hours": budget / rate if rate else None,
            }
        )
    return rows


def flops_per_chip_hour(plan: Path) -> float:
    """Model FLOPs of a chip in an hour by the forecast of a plan.

    Raises:
      ValueError: as `extrapolate`.
    """
    try:
        planned = json.loads(plan.read_text())["plan"]
        mfu = planned["mfu"].get("calibrated", planned["mfu"]["step"])
        chip = Target(planned["topology"]).chip
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"--plan={plan} is not a plan of a train step ({error!r}); use one of "
            "docs/plans, as docs/plans/fit-500m-v5p-4x4x8.json."
        ) from error
    return 3600 * chip.peak_tflops * 1e12 * mfu


def describe(fit: dict[str, Any]) -> str:
    """The law and its forecasts as lines of text."""
    law, within = fit["law"], fit["intervals"]
    lines = [
        f"L = E + A (f/{law['flops0']:.3g})^-alpha "
        f"+ B (d/{law['samples0']:.3g})^-beta, {fit['runs']} runs, error "
        f"{fit['median_error']:.2%} (median), {fit['largest_error']:.2%} (largest)"
    ]
    shown = {"floor": "E", "a": "A", "b": "B", "exponent": "f_best ~ C^"}
    for name, (low, high) in within.items():
        label = shown.get(name, name)
        lines.append(f"  {label:<12}{law[name]:>10.4g}  95%: {low:.4g} to {high:.4g}")
    lines.append(
        f"{'budget':>12}{'best GFLOP a sample':>22}{'95%':>24}{'parabola':>12}"
    )
    for row in fit["budgets"]:
        best, parabola = row["law"], row["parabola"]
        low, high = (1e-9 * each for each in best["flops_interval"])
        minimum = f"{parabola['flops'] / 1e9:.4g}" if parabola else "outside"
        lines.append(
            f"{row['budget']:>12.3g}{best['flops'] / 1e9:>22.4g}"
            f"{f'{low:.3g} to {high:.3g}':>24}{minimum:>12}"
        )
    for row in fit["ahead"]:
        low, high = (1e-9 * each for each in row["flops_interval"])
        line = (
            f"at {row['budget']:.3g} FLOPs: {row['flops'] / 1e9:.4g} GFLOP a sample "
            f"({low:.3g} to {high:.3g}), {row['samples']:.3g} samples, loss "
            f"{row['loss']:.4g}"
        )
        if row["parameters"]:
            line += f", about {row['parameters']:.3g} parameters"
        if row["chip_hours"]:
            line += f", {row['chip_hours']:.3g} chip-hours"
        lines.append(line)
    return "\n".join(lines)


def _best(law: Law, drawn: Sequence[Law], budget: float) -> dict[str, Any]:
    flops = law.best_flops(budget)
    each = [one.best_flops(budget) for one in drawn]
    losses = [
        one.loss(best, budget / best) for one, best in zip(drawn, each, strict=True)
    ]
    return {
        "flops": flops,
        "flops_interval": laws.interval(each),
        "samples": budget / flops,
        "loss": law.loss(flops, budget / flops),
        "loss_interval": laws.interval(losses),
    }


def law_from_json(numbers: dict[str, float]) -> Law:
    """The `Law` of the numbers that `fit_runs` returns."""
    return Law(**{name: v for name, v in numbers.items() if name != "exponent"})


def _parameters(found: FinishedRuns) -> tuple[float, float]:
    """Scale and power of parameters by FLOPs over the widths; zeros for one width."""
    sizes = {(r.flops, r.parameters) for r, _ in found if r.axis in ("width", "base")}
    if len(sizes) < 2:
        return 0.0, 0.0
    flops, parameters = np.log(np.array(sorted(sizes), float)).T
    power, level = np.polyfit(flops, parameters, 1)
    return float(np.exp(level)), float(power)
