"""A gallery: samples of runs and checkpoints by prompt, and their metrics.

Clips are copied into the page, so that it can be moved. Each has an image of its first
frame, which the page shows while the clip does not play.
"""

import io
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from snapvideo_jax.data.container import UnusableClip
from snapvideo_jax.data.video import Clip, ClipInfo
from snapvideo_jax.evaluation.pages.page import new_folder, write_page
from snapvideo_jax.evaluation.pages.samples import Sample, read_samples
from snapvideo_jax.io.json_lines import finite, read_metrics

STILL_SIDE = 320
"""Largest shorter side of an image of a first frame, in pixels."""


@dataclass(frozen=True, kw_only=True)
class GalleryOptions:
    """Options of `build_gallery`.

    folders: of samples, each a run; a folder of such folders stands for all of them.
    out: folder of the page, empty or new.
    """

    folders: Sequence[str | Path]
    out: str | Path


@dataclass(frozen=True)
class Gallery:
    """The contents of a gallery.

    runs, clips: their numbers.
    left_out: names of clips and files that cannot be used, with the reason.
    """

    runs: int
    clips: int
    left_out: tuple[str, ...]


def build_gallery(options: GalleryOptions) -> Gallery:
    """Writes the page.

    Raises:
        ValueError: a folder is missing or has no clips, or ``out`` is not empty.
    """
    runs = [run for folder in options.folders for run in _runs_in(Path(folder))]
    listed, left_out, sizes = [], [], []
    cards: dict[tuple[str, int], dict[str, Any]] = {}
    with new_folder(Path(options.out)) as page:
        for number, (name, folder) in enumerate(zip(_names(runs), runs, strict=True)):
            samples, wrong = read_samples(folder)
            metrics, unread = read_metrics(folder)
            left_out += [*wrong, *unread]
            listed.append({"name": name, "metrics": metrics})
            seen: Counter[str] = Counter()
            for sample in samples:
                stem = f"clips/{number}/{sample.clip.stem}"
                # Counted first, so that a clip that is left out shifts no other.
                again, seen[sample.prompt] = (
                    seen[sample.prompt],
                    seen[sample.prompt] + 1,
                )
                try:
                    info = _copy(sample, page / stem)
                except UnusableClip as error:
                    left_out.append(f"{sample.clip}: {error}")
                    continue
                sizes.append((info.height, info.width))
                about = {k: v for k, v in sample.about.items() if k != "prompt"}
                card = {"prompt": sample.prompt, "clips": {}}
                card = cards.setdefault((sample.prompt, again), card)
                card["clips"][number] = {"file": stem, "about": finite(about)}
        if not sizes:
            raise ValueError("; ".join([*left_out[:5], "no clip can be shown."]))
        height, width = Counter(sizes).most_common(1)[0][0]
        data = {"runs": listed, "cards": list(cards.values()), "size": [width, height]}
        write_page(page, "gallery", data)
    return Gallery(len(runs), len(sizes), tuple(left_out))


def _runs_in(folder: Path) -> list[Path]:
    """The folder itself if it has clips, otherwise its subfolders that have clips."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; use one of `snapvideo sample`.")
    within = sorted(path for path in folder.iterdir() if path.is_dir())
    runs = [path for path in (folder, *within) if any(path.glob("*.mp4"))]
    if not runs:
        raise ValueError(
            f"{folder} has no clips, nor have its subfolders; use one of `snapvideo "
            "sample`."
        )
    return runs[:1] if runs[0] == folder else runs


def _names(runs: Sequence[Path]) -> list[str]:
    """The shortest suffixes of the paths that are unique."""
    if len(set(paths := [run.resolve() for run in runs])) < len(runs):
        raise ValueError("A folder is named twice; name each folder once.")
    for parts in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-parts:]) for path in paths]
        if len(set(names)) == len(names):
            break
    return names


def _copy(sample: Sample, stem: Path) -> ClipInfo:
    """Copies a clip, and writes an image of its first frame next to it.

    Raises:
        UnusableClip: it cannot be decoded.
    """
    with Clip(sample.clip) as clip:
        frame, info = clip.frames_at(np.zeros(1))[0], clip.info
    still = Image.fromarray(frame)
    scale = min(1.0, STILL_SIDE / min(still.size))
    if scale < 1:
        still = still.resize(tuple(max(1, round(side * scale)) for side in still.size))
    stem.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    still.save(buffer, "webp", quality=85)
    stem.with_name(f"{stem.name}.webp").write_bytes(buffer.getvalue())
    shutil.copyfile(sample.clip, stem.with_name(f"{stem.name}.mp4"))
    return info
