"""Converts frames and images to RGB at another size, with reproducible filters."""

import threading

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from jaxtyping import UInt8

Size = tuple[int, int]
"""Height and width, in pixels."""

EXACT = Interpolation.BITEXACT | Interpolation.ACCURATE_RND
"""Flags for equal results on every processor."""

_thread = threading.local()
# Shrinking averages the area of each new pixel; enlarging interpolates linearly.
_FILTER = Interpolation.AREA | Interpolation.FULL_CHR_H_INT | EXACT


def cover_size(size: Size, cover: Size) -> Size:
    """The smallest size of the same aspect ratio that covers another, in whole pixels.

    Args:
        size: height and width before.
        cover: height and width to cover.
    """
    scale = max(new / old for old, new in zip(size, cover, strict=True))
    height, width = (
        max(new, round(old * scale)) for old, new in zip(size, cover, strict=True)
    )
    return height, width


def upright(frame: av.VideoFrame) -> tuple[Size, int]:
    """Size and rotation of a frame as displayed.

    Returns:
        Height and width after the rotation, and the quarter turns counterclockwise (0
        to 3) from the stored frame to the displayed one.
    """
    turns = round(frame.rotation / 90) % 4
    return (frame.height, frame.width)[:: -1 if turns % 2 else 1], turns


def to_rgb(frame: av.VideoFrame, size: Size) -> UInt8[np.ndarray, "h w c"]:
    """A frame in RGB at another size, in one pass of FFmpeg's scaler.

    Args:
        frame: of any pixel format.
        size: of the result.
    """
    # One converter per thread: a new one for each frame, or a multithreaded one
    # (PyAV's defaults), takes 4 to 8 times as long.
    if not hasattr(_thread, "reformatter"):
        _thread.reformatter = VideoReformatter()
    height, width = size
    rgb = _thread.reformatter.reformat(
        frame, width, height, "rgb24", interpolation=_FILTER, threads=1
    )
    return rgb.to_ndarray()
