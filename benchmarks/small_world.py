"""Tab. 2 and 3 at small scale: the order of their rows on the generated shapes.

    python benchmarks/small_world.py --out small_world --seeds 0,1,2
    python benchmarks/small_world.py --out small_world --rows "EDM,FIT 500M" --seeds 0

8 frames of 16x16 px; networks about a thousand times smaller than the paper's, in about
its ratios; rows of Tab. 3 with the paper's settings. All rows train with the same noise
levels, EDM's shifted up as the demo's are: a flat shape stays visible at much higher
noise than a natural video. Clips of held-out prompts are scored by

- the exact judge: the share that shows the colour, the shape and the direction;
- a Frechet distance to real clips of held-out scenes, on the features of a small
  network that is trained here, once for all rows, to classify real clips.

A row is one network and one seed. Completed rows are saved in OUT and not run again;
the tables are written after every row, as JSON and as Markdown. Several processes may
share OUT, each with other rows.
"""

import argparse
import functools
import json
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from einops import rearrange
from flax.serialization import from_bytes, to_bytes

from snapvideo_jax import config as configs
from snapvideo_jax.data.shapes.dataset import (
    COLOURS,
    DIRECTIONS,
    SHAPES,
    held_out_prompts,
    render,
    sample_scene,
)
from snapvideo_jax.data.shapes.judge import judge
from snapvideo_jax.evaluation.frechet import frechet_distance
from snapvideo_jax.evaluation.stats import Moments
from snapvideo_jax.io.files import write_atomically
from snapvideo_jax.parallel import processes
from snapvideo_jax.sampling import loading
from snapvideo_jax.sampling.generator import Generator, requests_of
from snapvideo_jax.state import abstract_state
from snapvideo_jax.train import train

ROOT = Path(__file__).parents[1]
SIZE, FRAMES, FPS = 16, 8, 4.0
CLASSES = tuple(map(tuple, (COLOURS, SHAPES, DIRECTIONS)))
CHANNELS = 64
"""Features of the frozen network."""
REAL = 512
"""Number of real clips."""
LOWER, HIGHER = "frechet", "obeyed"
"""Metrics: lower is better for the first, higher for the second."""

UNETS = dict(multiples=(1, 2), blocks=1, head_width=8, context_width=32, norm_groups=8)
NETWORKS = {
    "U-Net 85M": dict(name="unet", channels=8, **UNETS),
    "U-Net 284M": dict(name="unet", channels=16, **UNETS),
    "FIT 500M": dict(),
    "FIT 3.9B": dict(
        patch_width=128, latents=32, latent_width=128, context_width=64, blocks=2
    ),
}
"""Small versions of the networks of Tab. 2; the FITs are those of configs/scaling.py
and configs/demo.py."""
ABLATIONS = {
    "EDM": dict(sigma_data=0.5, sigma_in=1.0),
    "(ii) sigma_data 0.5": dict(sigma_data=0.5, sigma_in=4.0),
    "(iii) sigma_in 2": dict(sigma_data=1.0, sigma_in=2.0),
    "(iv) images not videos": dict(images_as_videos=False, image_sigma_in=1.0),
}
OURS = dict(sigma_data=1.0, sigma_in=4.0, p_mean=0.0, p_std=1.4)
"""The framework of the paper; with sigma_in 4 the noise levels are the demo's."""
PAPER = {
    "2": {
        "U-Net 85M": (45.94, 0.2319),
        "U-Net 284M": (23.76, 0.2391),
        "FIT 500M": (27.79, 0.2459),
        "FIT 3.9B": (12.31, 0.2579),
    },
    "3": {
        "EDM": (39.95, 0.2370),
        "(ii) sigma_data 0.5": (31.00, 0.2449),
        "(iii) sigma_in 2": (34.89, 0.2428),
        "(iv) images not videos": (24.88, 0.2469),
        "FIT 500M": (27.79, 0.2459),
    },
}
"""FVD and CLIPSIM of the rows of each table; FIT 500M is "ours" of Tab. 3."""


# --- Rows ------------------------------------------------------------------------


def config_of(row: str, steps: int, seed: int):
    """The config of a row.

    Raises:
      ValueError: the row is unknown.
    """
    config = configs.load(str(ROOT / "configs" / "scaling.py"), [])
    config.seed = seed
    config.data.update(videos_per_batch=24, images_per_batch=8, subset=4000)
    config.diffusion.update(OURS)
    if row in ABLATIONS:
        config.diffusion.update(ABLATIONS[row])
    elif row not in NETWORKS:
        raise ValueError(f"There is no row {row!r}; use {[*NETWORKS, *ABLATIONS]}.")
    changes = dict(NETWORKS.get(row, {}))
    if changes.get("name") == "unet":
        changes.pop("name")
        config.model = configs.model_section(
            "unet", dropout=0.0, dtype="float32", **changes
        )
        # [P] Tab. 9: Adam for U-Nets; a larger rate, as training is shorter.
        config.optimizer.update(
            name="adam", learning_rate=2e-3, betas=(0.9, 0.999), weight_decay=0.01
        )
        config.training.update(self_conditioning=0.0)
    else:
        config.model.update(changes)
    config.optimizer.update(
        steps=steps, warmup_steps=max(steps // 50, 1), ema_half_life=steps / 30
    )
    config.sheets.every_steps = 0
    config.run.update(
        log_every_steps=max(steps // 10, 1),
        checkpoint_every_steps=max(steps // 4, 1),
        keep=1,
    )
    return config


def finished(row: str, seed: int, arguments, network) -> dict[str, Any]:
    """Trains a row unless it is trained already, and scores it."""
    began = time.monotonic()
    workdir = arguments.out / "runs" / f"{_plain(row)}-{seed}"
    train(config_of(row, arguments.steps, seed), workdir)
    trained = time.monotonic() - began
    clips, wanted = sampled(workdir, arguments.samples, arguments.guidance)
    obeyed = [
        (seen.colour, seen.shape, seen.direction) == asked
        for seen, asked in zip(map(judge, clips), wanted, strict=True)
    ]
    distance = distance_of(network, clips, real_clips(REAL))
    params = abstract_state(configs.build(configs.of_workdir(workdir))).params
    return {
        "row": row,
        "seed": seed,
        "steps": arguments.steps,
        "samples": arguments.samples,
        "guidance": arguments.guidance,
        "parameters": sum(x.size for x in jax.tree.leaves(nn.unbox(params))),
        LOWER: distance,
        HIGHER: float(np.mean(obeyed)),
        "train_seconds": trained,
        "seconds": time.monotonic() - began,
    }


def sampled(workdir: Path, count: int, guidance: float):
    """Clips of held-out prompts, and what each should show."""
    experiment, params, _, mesh = loading.load(workdir)
    asked = held_out_prompts(count)
    generator = Generator(experiment, experiment.sampler, mesh)
    settings = dict(seed=0, guidance=guidance, fps=FPS, resolution=(64, 64))
    requests = requests_of([prompt for prompt, _ in asked], 64, **settings)
    clips = np.concatenate([generator(params, request) for request in requests])
    return clips, [triple for _, triple in asked]


# --- The frozen features -------------------------------------------------------------


class Reader(nn.Module):
    """Classifies colour, shape and direction; the last hidden layer is the feature."""

    @nn.compact
    def __call__(self, clips):
        x = rearrange(clips.astype(jnp.float32) / 127.5 - 1, "b t ... -> (b t) ...")
        for width in (16, 32):
            x = nn.relu(nn.GroupNorm(8)(nn.Conv(width, (3, 3), 2)(x)))
        frames = nn.relu(nn.Dense(48)(rearrange(x, "n h w c -> n (h w c)")))
        x = rearrange(frames, "(b t) c -> b (t c)", t=FRAMES)
        features = nn.Dense(CHANNELS)(nn.relu(nn.Dense(128)(x)))
        answers = nn.relu(features)
        return features, [nn.Dense(len(names))(answers) for names in CLASSES]


@functools.cache
def real_clips(count: int, split: str = "test", first: int = 0) -> np.ndarray:
    """Held-out scenes at the size and frame rate of the generated clips."""
    return np.stack([_small(sample_scene(2, first + i, split)) for i in range(count)])


def _small(scene) -> np.ndarray:
    native = render(scene, FRAMES, FPS, 2 * SIZE)
    boxes = rearrange(native, "t (h y) (w x) c -> t h w c (y x)", y=2, x=2)
    return np.rint(boxes.mean(-1)).astype(np.uint8)


def reader(path: Path, steps: int = 400, batch: int = 64) -> Any:
    """Parameters of the `Reader`, trained once on real clips of all triples."""
    model = Reader()
    like = jax.jit(model.init)(jax.random.key(0), np.zeros((1, FRAMES, SIZE, SIZE, 3)))
    if path.is_file():
        return from_bytes(like, path.read_bytes())
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, steps))

    def loss_fn(params, clips, labels):
        _, answers = model.apply(params, clips)
        losses = [
            optax.softmax_cross_entropy_with_integer_labels(answer, labels[:, i])
            for i, answer in enumerate(answers)
        ]
        return jnp.mean(jnp.stack(losses))

    @jax.jit
    def update(params, state, clips, labels):
        loss, slope = jax.value_and_grad(loss_fn)(params, clips, labels)
        change, state = optimizer.update(slope, state)
        return optax.apply_updates(params, change), state, loss

    params, state, rng = like, optimizer.init(like), np.random.default_rng(0)
    scenes = [
        sample_scene(3, i, split) for split in ("train", "test") for i in range(1024)
    ]
    clips = np.stack([_small(scene) for scene in scenes])
    labels = np.array([_labels(scene) for scene in scenes])
    for _ in range(steps):
        rows = rng.integers(len(clips), size=batch)
        params, state, _ = update(params, state, clips[rows], labels[rows])
    print(
        f"frozen features: {accuracy(params):.1%} of other real clips classified right",
        flush=True,
    )
    write_atomically(path, to_bytes(params))
    return params


def accuracy(params) -> float:
    """Share of held-out real clips with all three answers right."""
    _, answers = jax.jit(Reader().apply)(params, real_clips(256))
    labels = np.array([_labels(sample_scene(2, i, "test")) for i in range(256)])
    right = [np.argmax(a, 1) == labels[:, i] for i, a in enumerate(answers)]
    return float(np.mean(np.all(right, axis=0)))


def _labels(scene) -> list[int]:
    words = scene.colour, scene.shape, scene.direction
    return [names.index(word) for names, word in zip(CLASSES, words, strict=True)]


def distance_of(params, clips: np.ndarray, others: np.ndarray) -> float:
    """The Frechet distance between the features of two sets of clips."""
    apply = jax.jit(lambda part: Reader().apply(params, part)[0])
    found = [
        Moments.empty(CHANNELS).update(np.asarray(apply(part), np.float64))
        for part in (clips, others)
    ]
    means = [(moments.mean, moments.covariance(1)) for moments in found]
    return frechet_distance(*means[0], *means[1])


# --- Tables ------------------------------------------------------------------------


def summary(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means and spreads over seeds by table and row, and which orders agree.

    The order of two rows of a table agrees if it is the paper's, and is open if the
    means differ by less than two standard errors.
    """
    tables: dict[str, Any] = {}
    for table, paper in PAPER.items():
        rows = {
            row: _mean_of([one for one in found if one["row"] == row])
            for row in paper
            if any(one["row"] == row for one in found)
        }
        orders = []
        for i, one in enumerate(rows):
            for other in list(rows)[i + 1 :]:
                for place, (metric, sign) in enumerate(((LOWER, 1), (HIGHER, -1))):
                    theirs = sign * (paper[one][place] - paper[other][place])
                    ours = sign * (rows[one][metric][0] - rows[other][metric][0])
                    error = np.hypot(*(rows[r][metric][2] for r in (one, other)))
                    verdict = "agrees" if ours * theirs > 0 else "disagrees"
                    verdict = "open" if abs(ours) <= 2 * error else verdict
                    orders.append([one, other, metric, verdict])
        tables[table] = {"rows": rows, "orders": orders}
    return tables


def _mean_of(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "seeds": [one["seed"] for one in found],
        "steps": sorted({one["steps"] for one in found}),
        "parameters": found[0]["parameters"],
        "seconds": float(np.mean([one["seconds"] for one in found])),
    }
    for metric in (LOWER, HIGHER):
        values = np.array([one[metric] for one in found])
        spread = float(values.std(ddof=1)) if len(values) > 1 else 0.0
        row[metric] = [float(values.mean()), spread, spread / len(values) ** 0.5]
    return row


def page(tables: dict[str, Any]) -> str:
    """The tables as Markdown."""
    lines = ["# Tab. 2 and 3 at small scale", ""]
    lines += ["Generated by `python benchmarks/small_world.py`, whose docstring says"]
    lines += ["what is measured.", ""]
    for table, found in tables.items():
        if not found["rows"]:
            continue
        lines += [f"## Tab. {table}", ""]
        lines.append(
            "| row | parameters | steps | seeds | Frechet distance | obeyed "
            "| paper: FVD | CLIPSIM | s a row |"
        )
        lines.append("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
        for row, one in found["rows"].items():
            fvd, clipsim = PAPER[table][row]
            distance, obeyed = one[LOWER], one[HIGHER]
            lines.append(
                f"| {row} | {one['parameters']:,} "
                f"| {', '.join(map(str, one['steps']))} "
                f"| {len(one['seeds'])} | {distance[0]:.3g} +- {distance[1]:.2g} "
                f"| {obeyed[0]:.1%} +- {obeyed[1]:.1%} | {fvd} | {clipsim} "
                f"| {one['seconds']:.0f} |"
            )
        lines.append("")
        for verdict in ("agrees", "disagrees", "open"):
            pairs = [order for order in found["orders"] if order[3] == verdict]
            text = "; ".join(f"{a} and {b} in {metric}" for a, b, metric, _ in pairs)
            lines += [f"**{verdict.capitalize()}** with the paper's order "
                      f"({len(pairs)}): {text or 'none'}.", ""]  # fmt: skip
    return "\n".join(lines)


def every_row() -> list[str]:
    """Rows of both tables, without duplicates."""
    return list(dict.fromkeys(row for rows in PAPER.values() for row in rows))


def write_tables(out: Path) -> dict[str, Any]:
    """Writes small_world.json and .md of the completed rows."""
    paths = sorted((out / "rows").glob("*.json"))
    found = [json.loads(path.read_text()) for path in paths]
    tables = summary(found)
    whole = {"rows": found, "tables": tables}
    write_atomically(out / "small_world.json", json.dumps(whole, indent=1).encode())
    write_atomically(out / "small_world.md", page(tables).encode())
    return tables


def _plain(row: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in row.lower()).strip("-")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", required=True, type=Path, metavar="DIR")
    parser.add_argument("--steps", type=int, default=2400, help="of a row (2400)")
    parser.add_argument("--seeds", default="0,1,2", help="(0,1,2)")
    parser.add_argument("--rows", default=",".join(every_row()), help="(all)")
    parser.add_argument("--samples", type=int, default=256, help="clips judged (256)")
    parser.add_argument("--guidance", type=float, default=2.0, help="weight g (2)")
    arguments = parser.parse_args()
    rows = arguments.rows.split(",")
    if unknown := set(rows) - set(every_row()):
        parser.error(f"--rows: unknown {sorted(unknown)}; use some of {every_row()}.")
    log = logging.getLogger("snapvideo_jax")
    log.addHandler(logging.StreamHandler(sys.stderr))
    log.setLevel(logging.INFO)
    processes.enable_compilation_cache(arguments.out)
    network = reader(arguments.out / "reader.msgpack")
    for seed in map(int, arguments.seeds.split(",")):
        for row in rows:
            path = arguments.out / "rows" / f"{_plain(row)}-{seed}.json"
            if path.is_file():
                saved = json.loads(path.read_text())
                for name in ("steps", "samples", "guidance"):
                    if saved[name] != getattr(arguments, name):
                        parser.error(
                            f"{path} is of --{name}={saved[name]}; use another --out."
                        )
                continue
            one = finished(row, seed, arguments, network)
            write_atomically(path, json.dumps(one, indent=1).encode())
            print(
                f"{row}, seed {seed}: distance {one[LOWER]:.4g}, obeyed "
                f"{one[HIGHER]:.1%}, {one['seconds']:.0f} s",
                flush=True,
            )
            write_tables(arguments.out)
    write_tables(arguments.out)
    print((arguments.out / "small_world.md").read_text())


if __name__ == "__main__":
    main()
