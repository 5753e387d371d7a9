"""Clips of different makers made alike: size, length and frame-rate.

What is alike is the least of all clips, so that none is enlarged, none is slowed down
and no frame is shown twice: a rater could else tell the makers apart by it.
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
    """What all clips of a study have in common.

    frames: of each clip, at least 2.
    fps: frames a second.
    height, width: in pixels, even.
    """

    frames: int
    fps: float
    height: int
    width: int


@dataclass(frozen=True)
class FormatLimits:
    """What is asked of clips that are made alike; 0 is the least of the clips.

    fps: frames a second, at most that of every clip.
    seconds: at most so long.
    height, width: in pixels, at most those of every clip.
    """

    fps: float = 0.0
    seconds: float = 0.0
    height: int = 0
    width: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError where a wish is below 0."""
        for name, value in vars(self).items():
            if not value >= 0:
                raise ValueError(
                    f"{name}={value} is not 0 or more; use 0 for the clips' own."
                )

    def common_format(self, clips: Mapping[Path, ClipInfo]) -> ClipFormat:
        """What these clips can have in common, and is asked for.

        Raises:
            ValueError: a clip is a still, or is smaller, slower or shorter than asked.
        """
        for clip, info in clips.items():
            if info.frames < 2:
                raise ValueError(f"{clip} is a still; a study needs clips that move.")
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
                "seconds are no clip; leave out shorter clips or use longer --seconds."
            )
        if min(height, width) < 2:
            raise ValueError(f"{width}x{height} pixels are no clip; use larger clips.")
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
    """What clips hold, and which cannot be read, by name with the reason."""
    found, wrong = {}, []
    for clip in clips:
        try:
            found[clip] = probe(clip)
        except UnusableClip as error:
            wrong.append(f"{clip}: {error}")
    return found, wrong


def read_clip(path: Path, form: ClipFormat) -> UInt8[np.ndarray, "t h w c"]:
    """The first frames of a clip, scaled to cover the size, its middle cut out.

    Raises:
        UnusableClip: as `Clip.frames_at`.
    """
    with Clip(path, cover=(form.height, form.width)) as clip:
        times = np.arange(form.frames) / form.fps
        frames = clip.frames_at(np.minimum(times, clip.info.duration))
    top = (frames.shape[1] - form.height) // 2
    left = (frames.shape[2] - form.width) // 2
    return frames[:, top : top + form.height, left : left + form.width]
