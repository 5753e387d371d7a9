"""Folders of numbered clips that sampling writes and resumes.

``NUMBER.json`` says how a clip was sampled, and is written after the clip. A command
that is run again samples the clips without one. A folder with clips of other settings
is refused.
"""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from snapvideo_jax.config import Sheets
from snapvideo_jax.data.container import UnusableClip
from snapvideo_jax.data.image import decode_image, image_size
from snapvideo_jax.data.video import Clip
from snapvideo_jax.io import media, saved_settings
from snapvideo_jax.io.files import write_json
from snapvideo_jax.parallel import coordinator
from snapvideo_jax.sampling.options import PromptOptions

logger = logging.getLogger(__name__)

SHEET_CLIPS = 64
SHEET_PIXELS = 64_000_000
"""Limits of a contact sheet: clips, and pixels of all their frames."""
MAY_CHANGE = ("version", "workdir")
"""Entries that may change while a folder is filled: a run may be moved."""


class Output:
    """A folder of clips, one for each sample.

    Args:
      options: give the folder, the formats of its files, and whether clips that it has
        are overwritten. All processes must see the same folder.
      about: contents of each clip's JSON, by number.
      shape: of a clip, ``t h w c``.
      fps: of the files.
      sheets: `config.Sheets`, settings of the contact sheet.

    Attributes:
      folder: its path.
      sheet: path of the contact sheet of the first clips, a GIF.
      missing: numbers of the clips that it lacked at first.

    Raises:
      ValueError: it holds clips of other settings, or is not shared by all processes.
    """

    def __init__(
        self,
        options: PromptOptions,
        about: Mapping[int, Mapping[str, Any]],
        shape: tuple[int, ...],
        fps: float,
        sheets: Sheets,
    ):
        self.folder, self._formats = Path(options.out), options.formats
        self.sheet = self.folder / "sheet.gif"
        self._shape, self._fps, self._sheets = shape, fps, sheets
        self._about = {n: json.loads(json.dumps(each)) for n, each in about.items()}
        self.missing = [n for n in about if options.overwrite or not self._has(n)]
        coordinator.assert_equal(
            f"The number of clips that {self.folder} lacks",
            str(len(self.missing)),
            "--out has to be a folder that all processes share, or empty",
        )
        if done := len(about) - len(self.missing):
            logger.info("%s has %d of %d clips already.", self.folder, done, len(about))

    def stem(self, number: int) -> Path:
        """Path of a clip without its suffix."""
        return self.folder / f"{number:05d}"

    def read(self, number: int) -> UInt8[np.ndarray, "t h w c"]:
        """The frames of a clip in 0..255, lossless if "png" is among the formats.

        Raises:
          ValueError: the clip is not there, or cannot be read.
        """
        return read_clip(self.stem(number), self._shape)

    def _has(self, number: int) -> bool:
        try:
            saved = json.loads(self.stem(number).with_suffix(".json").read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return False
        saved_settings.check_same(
            self._about[number],
            saved,
            f"Clip {number} of --out={self.folder}",
            "use another folder, or --overwrite",
            MAY_CHANGE.__contains__,
        )
        return all(
            self.stem(number).with_suffix(f".{name}").is_file()
            for name in self._formats
        )

    def write(self, number: int, clip: UInt8[np.ndarray, "t h w c"]) -> None:
        """Writes a clip in all formats, then its JSON."""
        media.write_clip(self.stem(number), clip, self._fps or 1.0, self._formats)
        write_json(self.stem(number).with_suffix(".json"), self._about[number])

    def write_trajectory(
        self,
        number: int,
        noisy: UInt8[np.ndarray, "k t h w c"],
        estimates: UInt8[np.ndarray, "k t h w c"],
        levels: Sequence[float],
    ) -> None:
        """Writes NUMBER-trajectory.gif and .png of a clip.

        Args:
          number: of the clip.
          noisy, estimates: network inputs and estimates, the upper and the lower row.
          levels: ``k`` noise levels, falling.
        """
        labels = [f"sigma = {level:.3g}" for level in levels]
        frames = media.contact_sheet(
            np.concatenate([noisy, estimates]),
            len(levels),
            labels + [""] * len(levels),
            scale=self._sheets.scale,
        )
        stem = self.folder / f"{number:05d}-trajectory"
        _write_gif_and_png(stem, frames, self._fps)

    def write_sheet(self, sampled: Mapping[int, np.ndarray]) -> None:
        """Writes the contact sheet of the first clips, with their prompts.

        Args:
          sampled: clips by number that need not be read from their files.
        """
        shown = list(self._about)[: sheet_limit(self._shape)]
        clips = [sampled[n] if n in sampled else self.read(n) for n in shown]
        labels = [self._about[n]["prompt"] for n in shown]
        write_sheet(self.folder / "sheet", np.stack(clips), labels, self._sheets)


def sheet_limit(shape: tuple[int, ...]) -> int:
    """How many clips ``t h w c`` a sheet shows."""
    return max(1, min(SHEET_CLIPS, SHEET_PIXELS // math.prod(shape[:3])))


def write_sheet(
    stem: Path, clips, labels: Sequence[str], sheets: Sheets, limit: int = SHEET_CLIPS
):
    """Writes a contact sheet of the first ``limit`` clips as GIF and PNG.

    Returns:
      Its frames.
    """
    clips, labels = clips[:limit], list(labels)[:limit]
    columns = max(1, round(len(clips) ** 0.5))
    frames = media.contact_sheet(clips, columns, labels, scale=sheets.scale)
    _write_gif_and_png(stem, frames, sheets.fps)
    return frames


def _write_gif_and_png(stem: Path, frames, fps: float) -> None:
    """Frames as GIF, the middle one as PNG."""
    media.write_gif(stem.with_suffix(".gif"), frames, fps or 1.0)
    media.write_png(stem.with_suffix(".png"), frames[len(frames) // 2][None])


def read_clip(stem: Path, shape: tuple[int, ...]) -> UInt8[np.ndarray, "t h w c"]:
    """The frames of a clip in 0..255, from its PNG if there is one, without loss.

    Args:
      stem: path without a suffix.
      shape: frames, height, width and channels that it must have.

    Raises:
      ValueError: there is no file, it cannot be read, or has another shape.
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
    """Checks the size of a clip by the header of its PNG, else by decoding it.

    Raises:
      ValueError: as `read_clip`, except for PNGs that cannot be decoded.
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
