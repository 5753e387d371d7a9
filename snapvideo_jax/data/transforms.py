"""From decoded frames to the network's input: choice of times, crop and size.

All functions are pure; randomness comes from a generator that belongs to one sample.
There are no horizontal flips, because captions mention left and right.
"""

import functools
from math import exp, log

import numpy as np
from einops import rearrange, repeat
from jaxtyping import Float, Float32, Int, Shaped, UInt8

from snapvideo_jax.data.container import UnusableClip
from snapvideo_jax.data.video import ClipInfo


def frame_times(
    rng: np.random.Generator,
    info: ClipInfo,
    frames: int,
    min_fps: float,
    max_fps: float = 0.0,
) -> tuple[Float[np.ndarray, "t"], float]:
    """Times to take frames at, in seconds from the first, and the frame interval.

    The target rate is log-uniform between ``min_fps`` and the clip's rate, with a lower
    bound at which the frames just fit in the clip; the start is uniform over the rest.

    Args:
        rng: the sample's generator.
        info: the clip.
        frames: number of frames, at least 1.
        min_fps: lowest target rate in 1/s; a slower clip retains its rate.
        max_fps: highest target rate in 1/s; 0 for the clip's.

    Raises:
        UnusableClip: the clip is too short even at the highest rate.

    [C] data.min_fps: variable frame-rate training.
    """
    if info.frames < frames:
        held = f"{info.frames} frame" + "s" * (info.frames != 1)
        raise UnusableClip(f"has {held}, data.frames={frames} needs at least {frames}")
    if info.frames == 1:
        return np.zeros(1), 0.0
    highest = min(info.fps, max_fps) if max_fps else info.fps
    fitting = (frames - 1) / info.duration
    if fitting > highest * (1 + 1e-9):
        raise UnusableClip(
            f"lasts {info.duration:.3f} s, data.frames={frames} at "
            f"data.max_fps={max_fps:g} needs {(frames - 1) / max_fps:.3f} s"
        )
    lowest = min(max(min_fps, fitting), highest)
    fps = exp(rng.uniform(log(lowest), log(highest)))
    room = max(0.0, info.duration - (frames - 1) / fps)
    return rng.uniform(0, room) + np.arange(frames) / fps, 1 / fps


def as_video(
    image: UInt8[np.ndarray, "h w c"], frames: int
) -> UInt8[np.ndarray, "t h w c"]:
    """An image as a video of equal frames, whose frame interval is 0.

    [P] Sec. 3.3: images are videos of infinite frame-rate.
    """
    return repeat(image, "h w c -> t h w c", t=frames)


def random_crop(
    rng: np.random.Generator,
    video: UInt8[np.ndarray, "t h w c"],
    height: int,
    width: int,
) -> UInt8[np.ndarray, "t H W c"]:
    """The largest crop of the aspect ratio of height to width, at a random place.

    Args:
        rng: the sample's generator.
        video: frames of any size.
        height, width: of the target; only their ratio matters.

    Returns:
        A view of ``video``.
    """
    full_height, full_width = video.shape[1:3]
    part_height = min(full_height, max(1, round(full_width * height / width)))
    part_width = min(full_width, max(1, round(full_height * width / height)))
    top = rng.integers(full_height - part_height + 1)
    left = rng.integers(full_width - part_width + 1)
    return video[:, top : top + part_height, left : left + part_width]


def resize(
    video: UInt8[np.ndarray, "t h w c"], height: int, width: int
) -> UInt8[np.ndarray, "t H W c"]:
    """The video at another size, by the same exact filter on every frame.

    Smaller sizes average the area of each new pixel, so nothing aliases; larger ones
    interpolate linearly.

    Args:
        video: frames of any size.
        height, width: of the result, in pixels.
    """
    if video.shape[1:3] == (height, width):
        return np.ascontiguousarray(video)
    count, channels = len(video), video.shape[3]
    lower = _resize_middle(rearrange(video, "t h w c -> t h (w c)"), height)
    columns = rearrange(lower, "t h (w c) -> 1 w (t h c)", c=channels)
    small = _resize_middle(columns, width)
    pixels = rearrange(small, "1 w (t h c) -> t h w c", t=count, c=channels)
    # Rounds halves up, whatever the rounding of the weights.
    return np.clip(pixels + 0.501, 0, 255).astype(np.uint8, order="C")


@functools.lru_cache(maxsize=1024)
def resize_weights(size: int, new_size: int) -> Float32[np.ndarray, "new old"]:
    """Weight of every old pixel in every new one along one axis; rows sum to 1.

    Args:
        size, new_size: pixels along the axis before and after, at least 1.
    """
    scale = size / new_size
    if scale >= 1:
        edges = np.arange(new_size + 1)[:, None] * scale
        covered = np.clip(edges - np.arange(size), 0, 1)
        weights = np.diff(covered, axis=0)
    else:
        centres = np.clip((np.arange(new_size) + 0.5) * scale - 0.5, 0, size - 1)
        weights = np.clip(1 - abs(centres[:, None] - np.arange(size)), 0, None)
    weights = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    weights.flags.writeable = False
    return weights


def _resize_middle(
    values: Shaped[np.ndarray, "first old last"], new_size: int
) -> Float32[np.ndarray, "first new last"]:
    """Values at another size along the middle axis.

    Not a matrix product: BLAS would start threads for it, and waiting for those next to
    a busy training process takes 100 times as long as the arithmetic.
    """
    places, shares = _taps(values.shape[1], new_size)
    total = np.zeros((len(values), new_size, values.shape[2]), np.float32)
    for place, share in zip(places, shares, strict=True):
        total += values[:, place] * share[:, None]
    return total


@functools.lru_cache(maxsize=1024)
def _taps(
    size: int, new_size: int
) -> tuple[Int[np.ndarray, "taps new"], Float32[np.ndarray, "taps new"]]:
    """The old pixels that each new one depends on, and their weights."""
    weights = resize_weights(size, new_size)
    count = int((weights > 0).sum(1).max())
    first = np.minimum((weights > 0).argmax(1), size - count)
    places = first[:, None] + np.arange(count)
    return places.T.copy(), np.take_along_axis(weights, places, 1).T.copy()
