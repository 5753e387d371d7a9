"""Resizing as the metrics' first implementations did it: each has its own bilinear.

Between them lie up to dozens of grey levels, so a score names the one that it used.
Everything is done on the host: clips of any size mix, networks are compiled for one
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
    """Where new pixels lie among old ones, as PyTorch (align_corners=False) has it."""
    return ((np.arange(new) + 0.5) * (old / new) - 0.5).clip(0, old - 1)


def legacy(old: int, new: int) -> Float[np.ndarray, "n"]:
    """As TensorFlow 1 has it: corners of pixels, not their middles, are scaled."""
    # In float32, as there: where a position is nearly whole this decides.
    scaled = np.arange(new, dtype=np.float32) * np.float32(old / new)
    return scaled.clip(0, old - 1).astype(np.float64)


def aligned(old: int, new: int) -> Float[np.ndarray, "n"]:
    """As Chainer has it: the first and last pixels stay where they are."""
    return np.linspace(0, old - 1, new)


Grid = Callable[[int, int], np.ndarray]


def bilinear(
    frames: Shaped[np.ndarray, "t h w c"], size: Size, grid: Grid
) -> Float32[np.ndarray, "t y x c"]:
    """Frames in another size; two neighbours make a pixel, also where it shrinks.

    Args:
      frames: of any type.
      size: of the result.
      grid: where new pixels lie: `half_pixel`, `legacy` or `aligned`.
    """
    values = np.asarray(frames, np.float32)
    # The longer first lets the other work on less.
    for axis, new in ((2, size[1]), (1, size[0])):
        values = _along(values, axis, grid(values.shape[axis], new))
    return values


def bicubic(
    frames: UInt8[np.ndarray, "t h w 3"], size: Size
) -> UInt8[np.ndarray, "t y x 3"]:
    """Pillow's bicubic filter, which averages where it shrinks, rounded to levels."""
    height, width = size
    pictures = (
        Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC)
        for frame in frames
    )
    return np.stack([np.asarray(picture) for picture in pictures])


def bicubic_exact(
    frames: UInt8[np.ndarray, "t h w 3"], size: Size
) -> Float32[np.ndarray, "t y x 3"]:
    """The same filter channel by channel in float32, not rounded (arXiv 2104.11222)."""
    height, width = size

    def one(channel: np.ndarray) -> np.ndarray:
        picture = Image.fromarray(channel.astype(np.float32))
        resized = picture.resize((width, height), Image.Resampling.BICUBIC)
        return np.asarray(resized)

    return np.stack(
        [np.stack([one(frame[..., c]) for c in range(3)], axis=-1) for frame in frames]
    )


def cover(old: Size, side: int, round_up: bool) -> Size:
    """The size whose shorter side is ``side``, of the same shape.

    Args:
      old: height and width.
      side: in pixels.
      round_up: else the longer side is rounded down.
    """
    short = min(old)
    height, width = (
        side if x == short else -(-x * side // short) if round_up else x * side // short
        for x in old
    )
    return height, width


def centre(
    frames: Shaped[np.ndarray, "t h w c"],
    size: Size,
    begin: Callable[[float], int] = math.floor,
) -> Shaped[np.ndarray, "t y x c"]:
    """The middle of frames that are no smaller than ``size``.

    Args:
      frames, size: of any type; height and width of the result.
      begin: makes a whole number of where it begins; torchvision rounds.
    """
    top, left = (
        begin((old - new) / 2) for old, new in zip(frames.shape[1:3], size, strict=True)
    )
    return frames[:, top : top + size[0], left : left + size[1]]


def _along(values: np.ndarray, axis: int, places: np.ndarray) -> np.ndarray:
    low = np.floor(places).astype(int)
    high = np.minimum(low + 1, values.shape[axis] - 1)
    shape = [1] * values.ndim
    shape[axis] = len(places)
    share = (places - low).astype(np.float32).reshape(shape)
    below, above = (np.take(values, index, axis) for index in (low, high))
    above -= below
    above *= share
    above += below
    return above
