"""Resizing as in the metrics' first implementations, each with its own bilinear.

They differ by up to dozens of grey levels, so a result records which one it used.
Everything runs on the host: clips of any size can be mixed, networks compile for one
size, and two of the variants are Pillow's by definition. Values stay in 0..255.
"""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Float32, Shaped, UInt8
from PIL import Image

Size = tuple[int, int]
"""Height and width."""


def half_pixel(old: int, new: int) -> Float[np.ndarray, "n"]:
    """Positions of new pixels among old ones in PyTorch (align_corners=False)."""
    return ((np.arange(new) + 0.5) * (old / new) - 0.5).clip(0, old - 1)


def legacy(old: int, new: int) -> Float[np.ndarray, "n"]:
    """In TensorFlow 1: pixel corners are scaled, not pixel centres."""
    # float32 as in TensorFlow: it decides where a position is almost an integer.
    scaled = np.arange(new, dtype=np.float32) * np.float32(old / new)
    return scaled.clip(0, old - 1).astype(np.float64)


def aligned(old: int, new: int) -> Float[np.ndarray, "n"]:
    """In Chainer: the first and last pixels stay in place."""
    return np.linspace(0, old - 1, new)


Grid = Callable[[int, int], np.ndarray]


def bilinear(
    frames: Shaped[np.ndarray, "t h w c"], size: Size, grid: Grid
) -> Float32[np.ndarray, "t y x c"]:
    """Bilinear resizing without antialiasing: a pixel is of two neighbours per axis.

    Args:
      frames: of any dtype.
      size: of the result.
      grid: positions of new pixels: `half_pixel`, `legacy` or `aligned`.
    """
    values = np.asarray(frames, np.float32)
    # The width, the longer axis, first: the second pass has less to do.
    for axis, new in ((2, size[1]), (1, size[0])):
        values = _interpolated(values, axis, grid(values.shape[axis], new))
    return values


def bicubic(
    frames: UInt8[np.ndarray, "t h w 3"], size: Size
) -> UInt8[np.ndarray, "t y x 3"]:
    """Pillow's antialiased bicubic filter, rounded to integers."""
    height, width = size
    pictures = (
        Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC)
        for frame in frames
    )
    return np.stack([np.asarray(picture) for picture in pictures])


def bicubic_exact(
    frames: UInt8[np.ndarray, "t h w 3"], size: Size
) -> Float32[np.ndarray, "t y x 3"]:
    """The same filter per channel in float32, not rounded (arXiv 2104.11222)."""
    height, width = size

    def one(channel: np.ndarray) -> np.ndarray:
        picture = Image.fromarray(channel.astype(np.float32))
        resized = picture.resize((width, height), Image.Resampling.BICUBIC)
        return np.asarray(resized)

    return np.stack(
        [np.stack([one(frame[..., c]) for c in range(3)], axis=-1) for frame in frames]
    )


def covering_size(old: Size, side: int, round_up: bool) -> Size:
    """The size of the same aspect ratio whose shorter side is ``side``.

    Args:
      old: height and width.
      side: in pixels.
      round_up: round the longer side up, else down.
    """
    short = min(old)
    height, width = (
        side if x == short else -(-x * side // short) if round_up else x * side // short
        for x in old
    )
    return height, width


def center_crop(
    frames: Shaped[np.ndarray, "t h w c"],
    size: Size,
    to_integer: Callable[[float], int] = math.floor,
) -> Shaped[np.ndarray, "t y x c"]:
    """The central part of frames that are at least as large as ``size``.

    Args:
      frames: of any dtype.
      size: height and width of the result.
      to_integer: rounds the offsets; torchvision's is `round`.
    """
    top, left = (
        to_integer((old - new) / 2)
        for old, new in zip(frames.shape[1:3], size, strict=True)
    )
    return frames[:, top : top + size[0], left : left + size[1]]


def _interpolated(values: np.ndarray, axis: int, positions: np.ndarray) -> np.ndarray:
    low = np.floor(positions).astype(int)
    high = np.minimum(low + 1, values.shape[axis] - 1)
    shape = [1] * values.ndim
    shape[axis] = len(positions)
    share = (positions - low).astype(np.float32).reshape(shape)
    below, above = (np.take(values, index, axis) for index in (low, high))
    above -= below
    above *= share
    above += below
    return above
