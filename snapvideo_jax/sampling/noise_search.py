"""Search for the noise that an upsampler's small clips are best given (Sec. 3.5).

Clips of a data set are shrunk and enlarged at every noise level of a grid, with the
same noise otherwise, and compared with the originals.
"""

import dataclasses
import importlib.util
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from snapvideo_jax.config import Experiment
from snapvideo_jax.data import make_joint_source
from snapvideo_jax.diffusion.low_resolution import enlarge, shrink
from snapvideo_jax.io import media
from snapvideo_jax.io.files import write_json
from snapvideo_jax.io.progress import progress
from snapvideo_jax.io.saved_settings import differences
from snapvideo_jax.sampling.cascade import STREAM, second_stage
from snapvideo_jax.sampling.generator import (
    Generator,
    Request,
    as_bytes,
    requests_of,
)
from snapvideo_jax.sampling.inputs import digest
from snapvideo_jax.sampling.options import SamplerOptions, SearchNoiseOptions
from snapvideo_jax.types import pixels

SHOWN = 4
"""Clips of the contact sheet."""


@dataclasses.dataclass(frozen=True)
class Score:
    """A way to compare enlarged clips with the originals.

    Attributes:
      of: ``(sampled, real)``, in 0..255, to a number for each clip.
      is_error: whether less is better.
      label: with its unit.
    """

    of: Callable[[np.ndarray, np.ndarray], np.ndarray]
    is_error: bool
    label: str


def psnr(
    sampled: UInt8[np.ndarray, "b t h w c"], real: UInt8[np.ndarray, "b t h w c"]
) -> Float[np.ndarray, "b"]:
    """Peak signal-to-noise ratio over all pixels of a clip, in dB; at most 100."""
    error = np.square(sampled.astype(float) - real).mean(axis=(1, 2, 3, 4))
    return 10 * np.log10(255**2 / np.maximum(error, 255**2 / 1e10))


def sharpness(
    sampled: UInt8[np.ndarray, "b t h w c"], real: UInt8[np.ndarray, "b t h w c"]
) -> Float[np.ndarray, "b"]:
    """Difference of the energy of edges: ``|ln(sampled / real)|``."""
    return np.abs(np.log(_edges(sampled) / _edges(real)))


def _edges(clips: np.ndarray) -> np.ndarray:
    """Mean squared difference of neighbouring pixels, plus 1e-3 against zeros."""
    clips = clips.astype(float)
    across = np.square(np.diff(clips, axis=3)).mean(axis=(1, 2, 3, 4))
    return across + np.square(np.diff(clips, axis=2)).mean(axis=(1, 2, 3, 4)) + 1e-3


SCORES = {
    "psnr": Score(psnr, False, "PSNR (dB)"),
    "sharpness": Score(sharpness, True, "|ln of edge energy, sampled / real|"),
}
"""By name; the first is the default."""


def search(options: SearchNoiseOptions) -> dict[str, Any]:
    """Scores every noise level; process 0 writes scores, plot and contact sheet.

    Levels that an interrupted search has scored are not scored again.

    Returns:
      The contents of search.json: ``levels`` (mean and standard_error of the score by
      noise level), ``best`` (the best level), ``bilinear`` (mean score of bilinear
      enlargement), and the settings.

    Raises:
      ValueError: what is asked for makes no sense, before anything is compiled.
    """
    if options.score not in SCORES:
        raise ValueError(
            f"--score={options.score} is unknown; use one of {', '.join(SCORES)}."
        )
    if importlib.util.find_spec("matplotlib") is None:
        raise ValueError(
            "Plots need matplotlib; pip install 'snapvideo_jax[plot]' installs it."
        )
    # The further settings of the second stage are those of its config, as in `sample`.
    names = ("steps", "solver", "guidance", "fps", "seed", "batch", "ema")
    own = SamplerOptions(**{name: getattr(options, name) for name in names})
    second = second_stage(options.cascade, own, small_noise=0.0)
    grid = grid_of(options, second.experiment)
    real = real_clips(options, second.experiment)
    size = second.experiment.training.low_resolution
    small = np.asarray(as_bytes(shrink(pixels(jnp.asarray(real.clips)), size)))
    run = second.load()
    batch = min(options.batch, len(small))
    generator = run.generator(batch=batch)
    about = run.about() | {
        "seed": options.seed,
        "guidance": second.settings["guidance"],
        "score": options.score,
        "count": len(small),
        "clips": options.clips and str(options.clips),
        "data": digest(real.clips.tobytes()),
    }
    score, out = SCORES[options.score], Path(options.out)
    is_writer = jax.process_index() == 0
    levels = scored_before(out / "search.json", about)
    for noise in progress(grid, len(grid), name="noise level", is_writer=is_writer):
        name, part = f"{noise:g}", out / "parts" / f"{noise:g}.npy"
        if name in levels and part.is_file():
            continue
        settings = second.settings | {"stream": STREAM, "small_noise": noise}
        requests = requests_of(real.captions, batch, **settings)
        clips = enlarged(generator, run.params, requests, small, real)
        values = score.of(clips, real.clips)
        levels[name] = {
            "mean": float(values.mean()),
            "standard_error": float(values.std() / len(values) ** 0.5),
        }
        if is_writer:
            part.parent.mkdir(parents=True, exist_ok=True)
            np.save(part, clips[:SHOWN])
            write_json(out / "search.json", _found(about, levels, score))
    levels = {name: levels[name] for name in map("{:g}".format, grid)}
    large = enlarge(pixels(jnp.asarray(small)), real.clips.shape[2:4])
    bilinear = np.asarray(as_bytes(large))
    mean = float(score.of(bilinear, real.clips).mean())
    found = _found(about, levels, score) | {"bilinear": mean}
    if is_writer:
        write_json(out / "search.json", found)
        plot(out / "search.png", levels, score, mean)
        _write_sheet(out, real, bilinear, list(levels))
    return found


def _found(about, levels, score: Score) -> dict[str, Any]:
    return about | {"levels": levels, "best": float(best_of(levels, score))}


def grid_of(options: SearchNoiseOptions, experiment: Experiment) -> tuple[float, ...]:
    """The noise levels that are scored, rising.

    Raises:
      ValueError: one is negative, or higher than in the upsampler's training.
    """
    most = experiment.training.low_resolution_noise
    if options.grid is None:
        return tuple(round(most * step / 10, 4) for step in range(11))
    grid = tuple(sorted(set(options.grid)))
    if grid[0] < 0 or grid[-1] > most:
        raise ValueError(
            f"--grid={','.join(map('{:g}'.format, options.grid))} is not in 0 to "
            f"{most:g}, which the upsampler was trained with "
            "(training.low_resolution_noise)."
        )
    return grid


@dataclasses.dataclass(frozen=True)
class RealClips:
    """Clips of a data set in full size, 0..255, each at its file's frame rate."""

    clips: UInt8[np.ndarray, "b t h w c"]
    captions: list[str]
    fps: list[float]


def real_clips(options: SearchNoiseOptions, experiment: Experiment) -> RealClips:
    """Clips of --clips, or of the run's data.

    Raises:
      ValueError: the data cannot be used.
    """
    changes = {"videos_per_batch": 1, "images_per_batch": 0}
    if options.clips:
        changes |= {"source": "folder", "root": str(options.clips)}
    data = dataclasses.replace(experiment.data, **changes)
    joint = make_joint_source(data, options.seed)
    found = [joint[number] for number in range(options.count)]
    captions = [str(each["caption"]) for each in found]
    experiment.text.check(captions)
    return RealClips(
        np.stack([each["video"] for each in found]),
        captions,
        [1 / float(each["frame_interval"]) for each in found],
    )


def scored_before(path: Path, about: dict[str, Any]) -> dict[str, Any]:
    """Scores of an earlier search with the same settings, whatever its grid."""
    if not path.is_file():
        return {}
    saved = json.loads(path.read_text())
    levels, _, _ = (saved.pop(name, None) for name in ("levels", "best", "bilinear"))
    return {} if differences(json.loads(json.dumps(about)), saved) else levels


def enlarged(
    generator: Generator,
    params: Any,
    requests: Sequence[Request],
    small: UInt8[np.ndarray, "b t y x c"],
    real: RealClips,
) -> UInt8[np.ndarray, "b t h w c"]:
    """All small clips, enlarged, each at the frame rate of its file."""
    parts = []
    for request in requests:
        rows = list(request.numbers)
        fps = [real.fps[row] for row in rows]
        request = dataclasses.replace(request, fps=fps, small=small[rows])
        parts.append(generator(params, request))
    return np.concatenate(parts)


def best_of(levels: dict[str, dict[str, float]], score: Score) -> str:
    """The noise level with the best mean."""
    sign = -1 if score.is_error else 1
    return max(levels, key=lambda key: sign * levels[key]["mean"])


def plot(path: Path, levels, score: Score, bilinear: float) -> None:
    """Plots the scores by noise level, with standard errors, and that of bilinear."""
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


def _write_sheet(
    out: Path,
    real: RealClips,
    bilinear: UInt8[np.ndarray, "b t h w c"],
    names: list[str],
) -> None:
    """Writes a GIF with a row for each clip: real, bilinear, every noise level."""
    shown = [np.load(out / "parts" / f"{name}.npy") for name in names]
    rows = np.stack([real.clips[:SHOWN], bilinear[:SHOWN], *shown], axis=1)
    names = ["real", "bilinear", *names]
    frames = media.contact_sheet(
        np.concatenate(list(rows)), len(names), names * len(rows)
    )
    media.write_gif(out / "sheet.gif", frames, max(real.fps[0], 1.0))
