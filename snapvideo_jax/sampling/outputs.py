"""Folders of numbered clips that sampling writes, and that it goes on with.

``NUMBER.json`` tells how a clip was made, and is written after it. A command that is
started again makes what has none; what was made in another way is not mixed with it.
"""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from snapvideo_jax.data.container import UnusableClip
from snapvideo_jax.data.image import decode_image, image_size
from snapvideo_jax.data.video import Clip
from snapvideo_jax.io import media, resume
from snapvideo_jax.io.files import write_json
from snapvideo_jax.parallel import coordinator

logger = logging.getLogger(__name__)

SHEET_CLIPS = 64
SHEET_PIXELS = 64_000_000
"""What a contact sheet shows at most, of clips and of pixels of all frames."""
NO_DIFFERENCE = ("version", "workdir")
"""What may change while a folder is filled: a run may be moved."""


class Output:
    """A folder of clips, one for each sample.

    Args:
      folder: that is filled; seen by all processes, where there are several.
      about: how every clip is made, by number.
      formats: of the files; see `media.FORMATS`.
      fps: of the files.
      overwrite: makes all clips anew.

    Raises:
      ValueError: it holds clips that were made in another way, or is not shared.
    """

    def __init__(
        self,
        folder: Path,
        about: Mapping[int, Mapping[str, Any]],
        formats: Sequence[str],
        fps: float,
        overwrite: bool = False,
    ):
        self.folder, self._formats, self._fps = folder, formats, fps
        self._about = {n: json.loads(json.dumps(each)) for n, each in about.items()}
        self.missing = [n for n in about if overwrite or not self._is_there(n)]
        coordinator.agree(
            f"The number of clips that {folder} lacks",
            str(len(self.missing)),
            "--out has to be a folder that all processes share, or empty",
        )
        if done := len(about) - len(self.missing):
            logger.info("%s has %d of %d clips already.", folder, done, len(about))

    def stem(self, number: int) -> Path:
        """Path of a clip without its ending."""
        return self.folder / f"{number:05d}"

    def _is_there(self, number: int) -> bool:
        try:
            kept = json.loads(self.stem(number).with_suffix(".json").read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return False
        resume.check_same(
            self._about[number],
            kept,
            f"Clip {number} of --out={self.folder}",
            "use another folder, or --overwrite",
            NO_DIFFERENCE.__contains__,
        )
        return all(
            self.stem(number).with_suffix(f".{name}").is_file()
            for name in self._formats
        )

    def write(self, number: int, clip: UInt8[np.ndarray, "t h w c"]) -> None:
        """Writes a clip in all formats, then its JSON."""
        media.write_clip(self.stem(number), clip, self._fps or 1.0, self._formats)
        write_json(self.stem(number).with_suffix(".json"), self._about[number])

    def write_strip(
        self,
        number: int,
        noisy: UInt8[np.ndarray, "k t h w c"],
        estimate: UInt8[np.ndarray, "k t h w c"],
        levels: Sequence[float],
        scale: int,
    ) -> None:
        """How a clip came to be: what the network was shown, and what it made of it.

        Args:
          number: of the clip.
          noisy, estimate: the upper and the lower row, at each of ``levels``.
          levels: of noise, falling.
          scale: factor by which pixels are enlarged.
        """
        labels = [f"sigma = {level:.3g}" for level in levels]
        frames = media.contact_sheet(
            np.concatenate([noisy, estimate]),
            len(levels),
            labels + [""] * len(levels),
            scale=scale,
        )
        stem = self.folder / f"{number:05d}-trajectory"
        media.write_gif(stem.with_suffix(".gif"), frames, self._fps or 1.0)
        media.write_png(stem.with_suffix(".png"), frames[len(frames) // 2][None])

    def write_sheet(
        self, made: Mapping[int, np.ndarray], shape: tuple[int, ...], sheets
    ) -> None:
        """The contact sheet of the first clips, with their prompts.

        Args:
          made: clips that need not be read from their files, by number.
          shape: of a clip, ``t h w c``.
          sheets: `config.Sheets`.
        """
        shown = list(self._about)[: sheet_limit(shape)]
        clips = [
            made[n] if n in made else read_clip(self.stem(n), shape) for n in shown
        ]
        labels = [self._about[n]["prompt"] for n in shown]
        write_sheet(self.folder / "sheet", np.stack(clips), labels, sheets)


def sheet_limit(shape: tuple[int, ...]) -> int:
    """How many clips ``t h w c`` a sheet shows."""
    return max(1, min(SHEET_CLIPS, SHEET_PIXELS // math.prod(shape[:3])))


def write_sheet(
    stem: Path, clips, labels: Sequence[str], sheets, limit: int = SHEET_CLIPS
):
    """A contact sheet of the first ``limit`` clips, as GIF and PNG, and its frames."""
    clips, labels = clips[:limit], list(labels)[:limit]
    columns = max(1, round(len(clips) ** 0.5))
    frames = media.contact_sheet(clips, columns, labels, scale=sheets.scale)
    media.write_gif(stem.with_suffix(".gif"), frames, sheets.fps or 1.0)
    media.write_png(stem.with_suffix(".png"), frames[len(frames) // 2][None])
    return frames


def read_clip(stem: Path, shape: tuple[int, ...]) -> UInt8[np.ndarray, "t h w c"]:
    """A clip that was written under a stem: without loss where there is a PNG.

    Args:
      stem: path without an ending.
      shape: frames, height, width and channels that it has.

    Raises:
      ValueError: there is none, it cannot be read, or has another shape.
    """
    strip, found = stem.with_suffix(".png"), None
    try:
        if strip.is_file():
            found = decode_image(str(strip))
            frames = max(1, round(found.shape[1] / shape[2]))
            if found.shape[1] % frames == 0:
                found = np.stack(np.split(found, frames, axis=1))
        else:
            for name in ("mp4", "gif"):
                path = stem.with_suffix(f".{name}")
                if path.is_file():
                    with Clip(str(path), whole=True) as clip:
                        found = clip.decoded().frames
                    break
    except UnusableClip as error:
        raise ValueError(f"{stem}: the clip is {error}.") from error
    if found is None:
        raise ValueError(f"{stem} has no .png, .mp4 or .gif; use a folder of clips.")
    if found.shape != tuple(shape):
        raise ValueError(
            f"{stem} is {_size(found.shape)}; wanted {_size(shape)}; use one of that "
            "size."
        )
    return found


def check_clip(stem: Path, shape: tuple[int, ...]) -> None:
    """Looks at the header of a clip for what `read_clip` would refuse.

    Raises:
      ValueError: as `read_clip`, but for what only decoding tells.
    """
    strip = stem.with_suffix(".png")
    if not strip.is_file():
        read_clip(stem, shape)
        return
    frames, height, width, _ = shape
    found = image_size(str(strip))
    if found != (height, frames * width):
        raise ValueError(
            f"{strip} is a picture of {found[1]}x{found[0]} px; wanted "
            f"{_size(shape)} side by side, as --format png writes them; use one of "
            "that size."
        )


def _size(shape: Sequence[int]) -> str:
    if len(shape) < 4:
        return f"a picture of {shape[1]}x{shape[0]} px"
    return f"{shape[0]} frames of {shape[2]}x{shape[1]} px"
