"""A fitted sweep as a CSV file and as a figure."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from snapvideo_jax.io.files import write_atomically
from snapvideo_jax.scaling.extrapolate import LAW, FinishedRuns, law_from_json
from snapvideo_jax.scaling.runs import results
from snapvideo_jax.scaling.sweep import AXES

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKS = dict(zip(("base", *AXES), "os^Dv", strict=True))


def plot(out: Path) -> tuple[Path, Path]:
    """Writes a sweep's runs.csv and law.png, and returns their paths.

    Raises:
      ValueError: the folder has no sweep, the law is not fitted yet, or Matplotlib is
        not installed.
    """
    finished, law = results(out), out / LAW
    if not law.is_file():
        raise ValueError(f"{law} does not exist; run snapvideo scaling fit first.")
    table, figure = out / "runs.csv", out / "law.png"
    write_table(finished, table)
    draw(finished, json.loads(law.read_text()), figure)
    return table, figure


def write_table(found: FinishedRuns, path: Path) -> None:
    """Every run with its loss, and its loss in each noise bin."""
    bins = list(dict.fromkeys(name for _, result in found for name in result["bins"]))
    names = ["name", "axis", "value", "budget", "steps", "samples", "flops"]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*names, "parameters", "seconds", "loss", "error", *bins])
    for run, result in found:
        writer.writerow(
            [*(getattr(run, name) for name in names), run.parameters]
            + [result[name] for name in ("seconds", "loss", "error")]
            + [result["bins"].get(name, "") for name in bins]
        )
    write_atomically(path, buffer.getvalue().encode())


def draw(found: FinishedRuns, fit: dict[str, Any], path: Path) -> None:
    """Losses by size at each budget with the law, the best sizes, and losses by noise.

    Raises:
      ValueError: Matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError("Pictures need pip install 'snapvideo_jax[plot]'.") from error
    figure = Figure(figsize=(13, 4.2))
    FigureCanvasAgg(figure)
    by_size, best, by_noise = figure.subplots(1, 3)
    _by_size(by_size, found, fit)
    _best(best, fit)
    _by_noise(by_noise, found, fit)
    for axes in (by_size, best, by_noise):
        axes.grid(color="#eeeeee")
        axes.legend(frameon=False, fontsize=8)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def _by_size(axes, found: FinishedRuns, fit) -> None:
    law = law_from_json(fit["law"])
    for number, row in enumerate(fit["budgets"]):
        colour, budget = COLOURS[number % len(COLOURS)], row["budget"]
        runs = [pair for pair in found if pair[0].budget == budget]
        for run, result in runs:
            axes.plot(run.flops, result["loss"], MARKS[run.axis], color=colour)
        sizes = [run.flops for run, _ in runs]
        line = np.geomspace(min(sizes) / 1.3, max(sizes) * 1.3, 100)
        label = f"{budget:.3g} FLOPs"
        axes.plot(line, law.loss(line, budget / line), color=colour, label=label)
    for axis in dict.fromkeys(run.axis for run, _ in found):
        axes.plot([], [], MARKS[axis], color="#888888", label=axis)
    sizes = sorted({run.flops for run, _ in found})
    axes.set_xscale("log")
    axes.set_xticks(sizes, [f"{size / 1e9:.3g}" for size in sizes])
    axes.minorticks_off()
    axes.tick_params(axis="x", labelsize=8, rotation=45 if len(sizes) > 5 else 0)
    axes.set_xlabel("GFLOP of training on a sample")
    axes.set_ylabel("validation loss")


def _best(axes, fit) -> None:
    law = law_from_json(fit["law"])
    drawn = [law_from_json(each) for each in fit["drawn"]]
    budgets = [row["budget"] for row in fit["budgets"]]
    line = np.geomspace(min(budgets) / 2, 10 * max(budgets), 50)
    each = np.array([one.best_flops(line) for one in drawn])
    low, high = np.quantile(each, [0.025, 0.975], axis=0)
    axes.fill_between(line, low, high, color=COLOURS[0], alpha=0.2, label="95%")
    label = f"law: C^{law.exponent:.2f}"
    axes.plot(line, law.best_flops(line), color=COLOURS[0], label=label)
    known = [row for row in fit["budgets"] if row["parabola"]]
    axes.plot(
        [row["budget"] for row in known],
        [row["parabola"]["flops"] for row in known],
        "o",
        color=COLOURS[1],
        label="parabola through a budget",
    )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("training FLOPs")
    axes.set_ylabel("best FLOPs of a sample")


def _by_noise(axes, found: FinishedRuns, fit) -> None:
    """Of the best run at each budget, for videos."""
    for number, row in enumerate(fit["budgets"]):
        runs = [pair for pair in found if pair[0].budget == row["budget"]]
        _, result = min(runs, key=lambda pair: pair[1]["loss"])
        bins = {k: v for k, v in result["bins"].items() if k.startswith("video/")}
        names = [name.removeprefix("video/sigma_") for name in bins]
        names = [name.replace("_to_", " to ") for name in names]
        colour = COLOURS[number % len(COLOURS)]
        label = f"best at {row['budget']:.3g}"
        axes.plot(names, list(bins.values()), "o-", color=colour, label=label)
    axes.set_yscale("log")
    axes.set_xlabel("noise level")
    axes.set_ylabel("validation loss of videos")
    axes.tick_params(axis="x", labelsize=7)
