"""A common format for the clips of a study: size, length and frame rate.

Each is the minimum over all clips, so that no clip is enlarged or slowed down and no
frame is repeated: raters could otherwise recognize methods by it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from snapvideo_jax.data.container import UnusableClip
from snapvideo_jax.data.video import Clip, ClipInfo, probe


@dataclass(frozen=True)
class ClipFormat:
    """The format of all clips of a study.

    frames: of each clip, at least 2.
    fps: frame rate in 1/s.
    height, width: in pixels, even.
    """

    frames: int
    fps: float
    height: int
    width: int


@dataclass(frozen=True)
class FormatLimits:
    """Limits of the common format; 0 stands for the minimum over the clips.

    fps: frame rate in 1/s, at most that of every clip.
    seconds: longest clip.
    height, width: in pixels, at most those of every clip.
    """

    fps: float = 0.0
    seconds: float = 0.0
    height: int = 0
    width: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError where a limit is below 0."""
        for name, value in vars(self).items():
            if not value >= 0:
                raise ValueError(
                    f"{name}={value} is not 0 or more; use 0 for the clips' own."
                )

    def common_format(self, clips: Mapping[Path, ClipInfo]) -> ClipFormat:
        """The common format of these clips within the limits.

        Raises:
            ValueError: a clip has one frame, or is below a limit in size, frame rate or
                length.
        """
        for clip, info in clips.items():
            if info.frames < 2:
                raise ValueError(f"{clip} has one frame; a study needs two or more.")
        fps = self._at_most_least("fps", {k: v.fps for k, v in clips.items()})
        height, width = (
            int(
                self._at_most_least(
                    name, {k: getattr(v, name) for k, v in clips.items()}
                )
            )
            for name in ("height", "width")
        )
        length = min(info.frames / info.fps for info in clips.values())
        frames = int(min(length, self.seconds or length) * fps + 1e-3)
        if frames < 2:
            raise ValueError(
                f"{fps:g} frames a second for {min(length, self.seconds or length):g} "
                "seconds are not a clip; leave out shorter clips or use longer "
                "--seconds."
            )
        if min(height, width) < 2:
            raise ValueError(f"{width}x{height} pixels are too few; use larger clips.")
        return ClipFormat(frames, fps, height - height % 2, width - width % 2)

    def _at_most_least(self, name: str, values: Mapping[Path, float]) -> float:
        least = min(values, key=values.get)
        asked = getattr(self, name)
        if asked > values[least] * (1 + 1e-6):
            raise ValueError(
                f"{name}={asked:g} is more than the {values[least]:g} of {least}; use "
                f"{name}={values[least]:g} or less."
            )
        return asked or values[least]


def probe_all(clips: list[Path]) -> tuple[dict[Path, ClipInfo], list[str]]:
    """Metadata of clips, and messages about those that cannot be read."""
    found, wrong = {}, []
    for clip in clips:
        try:
            found[clip] = probe(clip)
        except UnusableClip as error:
            wrong.append(f"{clip}: {error}")
    return found, wrong


def read_clip(path: Path, form: ClipFormat) -> UInt8[np.ndarray, "t h w c"]:
    """The first frames of a clip, resized to cover the format's size, centre-cropped.

    Raises:
        UnusableClip: as `Clip.frames_at`.
    """
    with Clip(path, cover=(form.height, form.width)) as clip:
        times = np.arange(form.frames) / form.fps
        frames = clip.frames_at(np.minimum(times, clip.info.duration))
    top = (frames.shape[1] - form.height) // 2
    left = (frames.shape[2] - form.width) // 2
    return frames[:, top : top + form.height, left : left + form.width]
