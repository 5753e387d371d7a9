"""Clips and frames that a command starts from, read from files of any kind."""

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
from snapvideo_jax.sampling.loading import Setup
from snapvideo_jax.sampling.options import SampleOptions

VIDEOS = (".mp4", ".mov", ".webm", ".mkv", ".avi", ".gif")
"""Suffixes of files with more than one frame."""
STRENGTH = 0.6
"""Default of --strength [C]."""


@dataclasses.dataclass(frozen=True)
class InitClip:
    """A clip that samples start from, and where it enters the sampler.

    Attributes:
      clip: in the network's size, 0..255; None where samples start from pure noise.
      first_step: step of the sampler at which it enters.
      about: its entries in the clips' JSON.
    """

    clip: UInt8[np.ndarray, "t h w c"] | None
    first_step: int
    about: dict[str, Any]

    def repeated(self, count: int) -> UInt8[np.ndarray, "b t h w c"] | None:
        """The clip for each of ``count`` samples."""
        return None if self.clip is None else np.stack([self.clip] * count)


def init_clip_of(options: SampleOptions, setup: Setup) -> InitClip:
    """The clip of --from_clip, and its first step by --strength.

    Args:
      options: of the command.
      setup: of the run; gives the size of a clip, the sampler and the frame rate.

    Raises:
      ValueError: the file is not a clip or too short, or no step is left to record.
    """
    if not options.from_clip:
        return InitClip(None, 0, {})
    model, steps, fps = (
        setup.experiment.model,
        setup.sampler.steps,
        setup.settings["fps"],
    )
    strength = STRENGTH if options.strength is None else options.strength
    if fps <= 0:
        raise ValueError(f"--from_clip is a video; give --fps above 0, not {fps:g}.")
    first = first_step(steps, strength)
    if first == steps and options.save_trajectory:
        raise ValueError(
            f"--strength={strength:g} takes no step of {steps}, so --save_trajectory "
            "has nothing to show; leave it out, or use a higher strength."
        )
    size = model.height, model.width
    frames = read_frames(Path(options.from_clip), size, fps, "--from_clip")
    if len(frames) < model.frames:
        raise ValueError(
            f"--from_clip={options.from_clip} has {len(frames)} frames at {fps:g} "
            f"fps; this run makes {model.frames}; use a longer clip or a higher --fps."
        )
    clip = frames[: model.frames]
    about = {"from_clip": digest(clip.tobytes()), "strength": strength}
    return InitClip(clip, first, about)


def read_frames(
    path: Path, size: tuple[int, int], fps: float, option: str
) -> UInt8[np.ndarray, "t h w c"]:
    """The frame of a picture or the frames of a video, cropped around the middle.

    Args:
      path: of the file.
      size: height and width; frames are scaled to cover it, then cropped.
      fps: rate at which frames of a video are taken, by presentation time.
      option: of the command line that names the file, for errors.

    Raises:
      ValueError: it is neither a picture nor a video.
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
    """The first twelve hexadecimal digits of the SHA-256."""
    return hashlib.sha256(data).hexdigest()[:12]
