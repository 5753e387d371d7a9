"""The verb `snapvideo search_noise`: how much noise a small clip is best given.

Sec. 3.5: at inference the noise in the small clip of an upsampler is found by search.
Clips of a data set are shrunk and enlarged again at every amount of a grid, with the
same noise otherwise, and compared with what they were.
"""

import dataclasses
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from snapvideo_jax.data import make_joint_source
from snapvideo_jax.diffusion.low_resolution import enlarge, shrink
from snapvideo_jax.io import media
from snapvideo_jax.io.files import write_json
from snapvideo_jax.io.options import numbers
from snapvideo_jax.io.progress import progress
from snapvideo_jax.io.resume import differences
from snapvideo_jax.sampling import cascade, loading
from snapvideo_jax.sampling import clips as sample
from snapvideo_jax.sampling.generator import Generator, Request, as_bytes
from snapvideo_jax.sampling.inputs import digest
from snapvideo_jax.types import pixels

logger = logging.getLogger(__name__)

SHOWN = 4
"""Clips of the contact sheet."""


@dataclasses.dataclass(frozen=True)
class Score:
    """A way to compare clips with what they were.

    Attributes:
      of: ``(made, real)``, in 0..255, to a number for each clip.
      is_error: whether less is better.
      label: with its unit.
    """

    of: Callable[[np.ndarray, np.ndarray], np.ndarray]
    is_error: bool
    label: str


def psnr(
    made: UInt8[np.ndarray, "b t h w c"], real: UInt8[np.ndarray, "b t h w c"]
) -> Float[np.ndarray, "b"]:
    """Peak signal-to-noise ratio over all pixels of a clip, in dB; at most 100."""
    error = np.square(made.astype(float) - real).mean(axis=(1, 2, 3, 4))
    return 10 * np.log10(255**2 / np.maximum(error, 255**2 / 1e10))


def sharpness(
    made: UInt8[np.ndarray, "b t h w c"], real: UInt8[np.ndarray, "b t h w c"]
) -> Float[np.ndarray, "b"]:
    """How far the energy of edges is from what it was: ``|ln(made / real)|``."""
    return np.abs(np.log(_edges(made) / _edges(real)))


def _edges(clips: np.ndarray) -> np.ndarray:
    """Mean square of differences of neighbours, and a little, for clips without any."""
    clips = clips.astype(float)
    across = np.square(np.diff(clips, axis=3)).mean(axis=(1, 2, 3, 4))
    return across + np.square(np.diff(clips, axis=2)).mean(axis=(1, 2, 3, 4)) + 1e-3


SCORES = {
    "psnr": Score(psnr, False, "PSNR (dB)"),
    "sharpness": Score(sharpness, True, "|ln of edge energy, made / real|"),
}
"""By name; the first is the default."""


def grid_of(arguments, experiment) -> tuple[float, ...]:
    """The amounts of noise that are tried, rising.

    Raises:
      ValueError: they are no numbers, or more than the upsampler was trained with.
    """
    most = experiment.training.low_resolution_noise
    if arguments.grid is None:
        return tuple(round(most * step / 10, 4) for step in range(11))
    try:
        grid = tuple(sorted(set(numbers(arguments.grid))))
    except ValueError:
        raise ValueError(
            f"--grid={arguments.grid} are not numbers with commas between, as 0,0.1."
        ) from None
    if grid[0] < 0 or grid[-1] > most:
        raise ValueError(
            f"--grid={arguments.grid} is not in 0 to {most:g}, which the upsampler was "
            "trained with (training.low_resolution_noise)."
        )
    return grid


def real_clips(arguments, experiment) -> dict[str, Any]:
    """Clips in full size, their captions and frame-rates, each file at its own.

    Raises:
      ValueError: the data cannot be used.
    """
    changes = {"videos_per_batch": 1, "images_per_batch": 0}
    if arguments.clips:
        changes |= {"source": "folder", "root": arguments.clips}
    data = dataclasses.replace(experiment.data, **changes)
    joint = make_joint_source(data, arguments.seed)
    found = [joint[number] for number in range(arguments.count)]
    captions = [str(each["caption"]) for each in found]
    experiment.text.check(captions)
    return {
        "clips": np.stack([each["video"] for each in found]),
        "captions": captions,
        "fps": [1 / float(each["frame_interval"]) for each in found],
    }


def search(second: cascade.Second, grid: Sequence[float], real: dict[str, Any]) -> None:
    """Tries all amounts, writes scores, plot and sheet, and prints the best.

    Args:
      second: the upsampler.
      grid: amounts of noise.
      real: of `real_clips`.
    """
    arguments, experiment = second.arguments, second.experiment
    out, is_writer = Path(arguments.out), jax.process_index() == 0
    size = second.shape[1:3]
    small = np.asarray(as_bytes(shrink(pixels(jnp.asarray(real["clips"])), size)))
    _, params, step, mesh = loading.load(Path(arguments.workdir), arguments.ema)
    batch = min(arguments.batch, len(small))
    generator = Generator(experiment, second.sampler, mesh, batch=batch)
    settings = second.settings | {"fps": 0.0}
    about = sample.about_of(experiment, arguments, second.sampler, step, settings)
    about |= {"seed": arguments.seed, "guidance": settings["guidance"]}
    about |= {"score": arguments.score, "count": len(small), "clips": arguments.clips}
    about |= {"data": digest(real["clips"].tobytes())}
    score, parts, made = SCORES[arguments.score], out / "parts", {}
    levels = tried(out / "search.json", about)
    for noise in progress(grid, len(grid), name="noise level", is_writer=is_writer):
        name, part = f"{noise:g}", parts / f"{noise:g}.npy"
        if name in levels and part.is_file():
            continue
        made[name] = enlarged(generator, params, second, small, real, noise, batch)
        values = score.of(made[name], real["clips"])
        levels[name] = {
            "mean": float(values.mean()),
            "standard_error": float(values.std() / len(values) ** 0.5),
        }
        made[name] = made[name][:SHOWN]
        if is_writer:
            parts.mkdir(parents=True, exist_ok=True)
            np.save(part, made[name])
            keep = about | {"levels": levels, "best": float(best_of(levels, score))}
            write_json(out / "search.json", keep)
    if not is_writer:
        return
    shown = [np.load(parts / f"{noise:g}.npy") for noise in grid]
    levels = {name: levels[name] for name in map("{:g}".format, grid)}
    large = enlarge(pixels(jnp.asarray(small)), real["clips"].shape[2:4])
    bilinear = np.asarray(as_bytes(large))
    alone = float(score.of(bilinear, real["clips"]).mean())
    keep = about | {"levels": levels, "best": float(best_of(levels, score))}
    write_json(out / "search.json", keep | {"bilinear": alone})
    plot(out / "search.png", levels, score, alone)
    rows = np.stack([real["clips"][:SHOWN], bilinear[:SHOWN], *shown])
    names = ["real", "bilinear", *(f"{noise:g}" for noise in grid)]
    labels = [name for _ in range(rows.shape[1]) for name in names]
    columns = np.concatenate(list(rows.swapaxes(0, 1)))
    frames = media.contact_sheet(columns, len(names), labels)
    media.write_gif(out / "sheet.gif", frames, max(real["fps"][0], 1.0))
    best = best_of(levels, score)
    print(
        f"--small_noise {best} is best of {len(grid)} by {arguments.score}: "
        f"{levels[best]['mean']:.4g}, the standard error is "
        f"{levels[best]['standard_error']:.2g} ({len(small)} clips); bilinear alone "
        f"has {alone:.4g}."
    )


def tried(path: Path, about: dict[str, Any]) -> dict[str, Any]:
    """Scores of a search that was stopped, if it was the same but for its grid."""
    if not path.is_file():
        return {}
    kept = json.loads(path.read_text())
    levels, _, _ = (kept.pop(name, None) for name in ("levels", "best", "bilinear"))
    return {} if differences(json.loads(json.dumps(about)), kept) else levels


def enlarged(generator, params, second, small, real, noise: float, batch: int):
    """All clips, enlarged with an amount of noise."""
    settings = {
        name: second.settings[name] for name in ("seed", "guidance", "resolution")
    }
    parts = [
        slice(first, min(first + batch, len(small)))
        for first in range(0, len(small), batch)
    ]
    return np.concatenate(
        [
            generator(
                params,
                Request(
                    prompts=real["captions"][part],
                    numbers=range(part.start, part.stop),
                    fps=real["fps"][part],
                    stream=cascade.STREAM,
                    small=small[part],
                    small_noise=noise,
                    **settings,
                ),
            )
            for part in parts
        ]
    )


def best_of(levels: dict[str, dict[str, float]], score: Score) -> str:
    """The amount with the best mean."""
    sign = -1 if score.is_error else 1
    return max(levels, key=lambda key: sign * levels[key]["mean"])


def plot(path: Path, levels, score: Score, bilinear: float) -> None:
    """The scores by noise, with their standard errors, and that of no network."""
    from matplotlib.figure import Figure

    grid = sorted(levels, key=float)
    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.add_subplot()
    axes.errorbar(
        [float(key) for key in grid],
        [levels[key]["mean"] for key in grid],
        [levels[key]["standard_error"] for key in grid],
        marker="o",
        capsize=3,
        label="upsampler",
    )
    axes.axhline(bilinear, color="grey", linestyle=":", label="bilinear")
    axes.set_xlabel("noise in the small clip (--small_noise)")
    axes.set_ylabel(score.label)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
