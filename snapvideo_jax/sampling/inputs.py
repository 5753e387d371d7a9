"""Clips and frames that a command is given to begin with, as files of any kind."""

import argparse
import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from snapvideo_jax.data.container import UnusableClip
from snapvideo_jax.data.image import decode_image
from snapvideo_jax.data.video import Clip
from snapvideo_jax.diffusion import first_step

VIDEOS = (".mp4", ".mov", ".webm", ".mkv", ".avi", ".gif")
"""Endings of files that are more than one frame."""
STRENGTH = 0.6
"""Of --strength where it is not given [C]."""


@dataclasses.dataclass(frozen=True)
class Beginning:
    """A clip that others are made from, and where it enters the sampler.

    Attributes:
      clip: in the network's size; None where clips are made from pure noise.
      first: step of the sampler at which it enters.
      about: how it is told beside clips.
    """

    clip: UInt8[np.ndarray, "t h w c"] | None
    first: int
    about: dict[str, Any]

    def of(self, count: int) -> UInt8[np.ndarray, "b t h w c"] | None:
        """The clip for each of some samples."""
        return None if self.clip is None else np.stack([self.clip] * count)


def beginning(
    arguments: argparse.Namespace, model, steps: int, fps: float
) -> Beginning:
    """What --from_clip and --strength ask for.

    Args:
      arguments: of the command line.
      model: gives the size of a clip.
      steps: of the sampler.
      fps: of the clips.

    Raises:
      ValueError: one is given without the other, the file is no clip or too short, or
        the strength is no share.
    """
    if not arguments.from_clip:
        if arguments.strength is not None:
            raise ValueError(
                f"--strength={arguments.strength:g} is of a clip to begin with; give "
                "--from_clip FILE too."
            )
        return Beginning(None, 0, {})
    strength = STRENGTH if arguments.strength is None else arguments.strength
    if not 0 <= strength <= 1:
        raise ValueError(f"--strength={strength:g} is not a share; use 0 to 1.")
    if fps <= 0:
        raise ValueError(f"--from_clip is a video; give --fps above 0, not {fps:g}.")
    first = first_step(steps, strength)
    if first == steps and arguments.save_trajectory:
        raise ValueError(
            f"--strength={strength:g} takes no step of {steps}, so --save_trajectory "
            "has nothing to show; leave it out, or use a higher strength."
        )
    size = model.height, model.width
    frames = read_frames(Path(arguments.from_clip), size, fps, "--from_clip")
    if len(frames) < model.frames:
        raise ValueError(
            f"--from_clip={arguments.from_clip} has {len(frames)} frames at {fps:g} "
            f"fps; this run makes {model.frames}; use a longer clip or a higher --fps."
        )
    clip = frames[: model.frames]
    about = {"from_clip": digest(clip.tobytes()), "strength": strength}
    return Beginning(clip, first, about)


def read_frames(
    path: Path, size: tuple[int, int], fps: float, option: str
) -> UInt8[np.ndarray, "t h w c"]:
    """A picture, or a video at a frame-rate; the middle of it, in a size.

    Args:
      path: of the file.
      size: height and width; the frames are made to cover it.
      fps: at which frames of a video are taken, by presentation time.
      option: of the command line that names the file.

    Raises:
      ValueError: it is neither.
    """
    try:
        if not path.is_file():
            raise UnusableClip("not there")
        if path.suffix.lower() in VIDEOS:
            with Clip(str(path), size, whole=True) as clip:
                count = int(clip.info.duration * fps + 1e-6) + 1
                frames = clip.frames_at(np.arange(count) / fps)
        else:
            frames = decode_image(str(path), size)[None]
    except UnusableClip as error:
        raise ValueError(f"{option}: {path} is {error}.") from error
    top, left = ((frames.shape[axis + 1] - size[axis]) // 2 for axis in range(2))
    return frames[:, top : top + size[0], left : left + size[1]]


def digest(data: bytes) -> str:
    """Twelve digits that tell data from other data."""
    return hashlib.sha256(data).hexdigest()[:12]
