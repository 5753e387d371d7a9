"""Plots the curves of a sweep, as in Fig. 5 and 6."""

import logging
from pathlib import Path
from typing import Any

from snapvideo_jax.evaluation.protocols.settings import Protocol

logger = logging.getLogger(__name__)

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
"""Colours that colour-blind readers can distinguish."""


def draw(protocol: Protocol, rows: list[dict[str, Any]], out: Path) -> list[Path]:
    """Writes curve.png of the points of a sweep; table.csv has the same values.

    Fig. 5 has FVD over CLIPSIM with a point for each weight, Fig. 6 FVD over the number
    of steps with a curve for each solver.

    Returns:
      The path of the file; empty with fewer than two points that have both metrics, or
      without Matplotlib.
    """
    over_weights = len(protocol.guidances) > 1
    x_name, y_name = ("clipsim", "fvd") if over_weights else ("steps", "fvd")
    shown = [row for row in rows if x_name in row and y_name in row]
    if len(shown) < 2:
        return []
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        logger.warning("No curve.png: pip install 'snapvideo_jax[plot]' draws it.")
        return []
    figure = Figure(figsize=(5.6, 4.2))
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for number, solver in enumerate(protocol.solvers):
        of_solver = [row for row in shown if row["solver"] == solver]
        x, y = ([row[name] for row in of_solver] for name in (x_name, y_name))
        axes.plot(x, y, "o-", color=COLOURS[number % len(COLOURS)], label=solver)
        for row in of_solver if over_weights else ():
            axes.annotate(
                f"{row['guidance']:g}",
                (row[x_name], row[y_name]),
                textcoords="offset points",
                xytext=(5, 4),
                fontsize=8,
            )
    if over_weights:
        axes.set_xlabel("CLIPSIM, higher is better")
        axes.set_title("weight g at each point; other papers' is 1 + g", fontsize=10)
    else:
        steps = sorted({row["steps"] for row in shown})
        axes.set_xscale("log", base=2)
        axes.set_xticks(steps, [str(each) for each in steps])
        axes.minorticks_off()
        axes.set_xlabel("steps")
        axes.legend(frameon=False)
    axes.set_ylabel("FVD, lower is better")
    axes.grid(color="#eeeeee")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    path = out / "curve.png"
    figure.savefig(path, dpi=150)
    return [path]
