"""The cost of a FIT by numbers of patches and of latents, measured on this CPU.

    pip install -e '.[parity]'
    python benchmarks/cost_curves.py --out docs/cost_curves.png

FIT 500M with widths divided by 8, with 2 of its 6 blocks (every block costs the same)
and one clip, in float32. Patches vary with the number of frames at 512 latents, latents
vary at 2,560 patches. Runs of all sizes alternate, so that ratios hold on a busy
machine. FLOPs of the narrow program are the compiler's, of the program without loops;
those of FIT 500M are counted from its shapes.
"""

import argparse
import json
import os

os.environ["JAX_PLATFORMS"] = "cpu"

import jax  # noqa: E402  (reads the environment above)
import numpy as np  # noqa: E402
from matplotlib import pyplot  # noqa: E402
from torch_parity import narrow_config  # noqa: E402

from snapvideo_jax import config as configs  # noqa: E402
from snapvideo_jax.models.flops import flops_forward  # noqa: E402
from snapvideo_jax.parallel.sharding import make_mesh  # noqa: E402
from snapvideo_jax.planning.bench import PROGRAMS, interleaved  # noqa: E402

FRAMES, LATENTS, BLOCKS = 16, 512, 2
PATCHES_A_FRAME = 160
CURVES = {
    "patches": [(frames, LATENTS) for frames in (4, 8, 16, 32)],
    "latents": [(FRAMES, latents) for latents in (128, 256, 512, 1024)],
}
"""Frames and latents of each point of a curve."""
SINGULAR = {"patches": "patch", "latents": "latent"}
LINES = {
    "forward pass": ("forward, measured", "#0072b2", "o-"),
    "train step": ("training step, measured", "#d55e00", "s-"),
    "compiler": ("forward, compiler's FLOPs", "#009e73", "^--"),
    "500m": ("forward of FIT 500M, FLOPs", "#000000", "D:"),
}


def experiment(frames: int, latents: int, divisor: int, blocks: int):
    """A FIT of these sizes on one clip, which is always self-conditioned."""
    config = narrow_config(divisor, latents=latents, blocks=blocks, unroll=blocks)
    config.data.update(frames=frames, videos_per_batch=1)
    config.training.update(self_conditioning=1.0, self_conditioning_period=1)
    return configs.build(config)


def measure(repeats: int) -> dict[str, dict[tuple[int, int], float]]:
    """Seconds and FLOPs by line of the plot and by point."""
    points = sorted({point for curve in CURVES.values() for point in curve})
    calls, found = {}, {name: {} for name in LINES}
    for point in points:
        narrow = experiment(*point, divisor=8, blocks=BLOCKS)
        mesh = make_mesh(narrow.mesh, narrow.data.batch)
        for name in ("forward pass", "train step"):
            program = PROGRAMS[name](narrow, mesh)
            calls[name, point] = program.call
            if name == "forward pass":
                cost = program.compiled.cost_analysis()
                found["compiler"][point] = cost["flops"]
        found["500m"][point] = flops_forward(experiment(*point, divisor=1, blocks=6))
    for (name, point), times in interleaved(calls, repeats).items():
        found[name][point] = times.median
    return found


def exponent(tokens, costs) -> float:
    """Exponent of the growth of a cost with the number of tokens, from all points."""
    return float(np.polyfit(np.log(tokens), np.log(costs), 1)[0])


def tokens_of(axis: str, point: tuple[int, int]) -> int:
    frames, latents = point
    return frames * PATCHES_A_FRAME if axis == "patches" else latents


def plot(found, path: str) -> None:
    """Costs of every point relative to those at FIT 500M's number of tokens."""
    figure, panels = pyplot.subplots(1, 2, figsize=(10, 4.4), sharey=True)
    for panel, (axis, points) in zip(panels, CURVES.items(), strict=True):
        tokens = np.array([tokens_of(axis, point) for point in points])
        for name, (label, colour, style) in LINES.items():
            costs = np.array([found[name][point] for point in points])
            label = f"{label}  ~ n^{exponent(tokens, costs):.2f}"
            costs = costs / found[name][FRAMES, LATENTS]
            panel.loglog(tokens, costs, style, color=colour, label=label, alpha=0.85)
        panel.loglog(
            tokens,
            tokens / tokens_of(axis, (FRAMES, LATENTS)),
            color="#bbbbbb",
            linewidth=1,
            zorder=0,
            label="in proportion  ~ n^1",
        )
        panel.set_xticks(tokens, [f"{n:,}" for n in tokens], minor=False)
        panel.minorticks_off()
        panel.set_xlabel(f"{SINGULAR[axis]} tokens")
        panel.grid(color="#eeeeee")
        panel.legend(fontsize=8, frameon=False, loc="upper left")
        for side in ("top", "right"):
            panel.spines[side].set_visible(False)
    panels[0].set_title(f"patches, at {LATENTS} latents", fontsize=11)
    patches = FRAMES * PATCHES_A_FRAME
    panels[1].set_title(f"latents, at {patches:,} patches", fontsize=11)
    ticks = (0.25, 0.5, 1, 2, 4)
    panels[0].set_yticks(ticks, [f"{tick:g} x" for tick in ticks], minor=False)
    panels[0].set_ylim(0.2, 6)
    panels[0].set_ylabel(f"cost, relative to {patches:,} patches and {LATENTS} latents")
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", required=True, metavar="FILE.png")
    parser.add_argument("--repeats", type=int, default=9, help="counted turns: 9")
    arguments = parser.parse_args()
    found = measure(arguments.repeats)
    print(f"jax {jax.__version__}, {len(os.sched_getaffinity(0))} threads")
    for axis, points in CURVES.items():
        tokens = np.array([tokens_of(axis, point) for point in points])
        for name, costs in found.items():
            costs = np.array([costs[point] for point in points])
            unit, scale = ("ms", 1e3) if name in PROGRAMS else ("GFLOP", 1e-9)
            slope = np.polyfit(tokens, scale * costs, 1)[0]
            row = {"tokens": tokens.tolist(), unit: (scale * costs).round(2).tolist()}
            print(f"{axis}, {name}: {json.dumps(row)}")
            print(
                f"  grows as n^{exponent(tokens, costs):.2f}, by {slope:.3g} {unit} a "
                f"{SINGULAR[axis]}"
            )
    plot(found, arguments.out)


if __name__ == "__main__":
    main()
