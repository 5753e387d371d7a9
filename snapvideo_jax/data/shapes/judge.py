"""Recognizes colour, shape and direction in a clip of `shapes`, without a network.

The background is the median of the border. The object are the pixels that differ from
it in chroma, the spread of the colour channels, as backgrounds are neutral. Its hue
gives the colour, the motion of its centre of gravity the direction, and the template
with the highest correlation the shape. An answer is None where the clip is ambiguous,
so a sampled clip only counts as correct if it shows what the prompt asks for.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8

from snapvideo_jax.data.shapes.dataset import COLOURS, DIRECTIONS, SHAPES, coverage

CHROMA = 70.0
"""Least spread of the channels against the background that counts as coloured, of 255
(objects of `shapes` have 215)."""
AREA = (0.02, 0.5)
"""Share of the frame that an object covers, at least and at most."""
HUE = 25.0
"""Most degrees from a named hue; the names are 60 apart."""
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
LUMA_WEIGHT = 30.0
"""Extra weight of luma in separating the object from the background: in 4:2:0 video
only luma has the resolution of the pixels."""
TRAVEL = 0.03
"""Least travel that counts as motion, in frame sides."""
DOMINANCE = 2.0
"""Least ratio of the travel along the direction to the travel across it, and to the
scatter about straight motion."""
CORRELATION = 0.8
"""Least correlation with a template that counts as a shape."""
SCALES = (0.85, 0.92, 1.0, 1.08)
OFFSETS = (-0.35, 0.0, 0.35)
"""Templates tried around the measured radius and centre (pixels)."""
MOST_FRAMES = 16
"""Longer clips are subsampled evenly to at most this many frames."""
LARGEST = 32
"""Sides from twice this many pixels on are halved before the shape is fitted."""


@dataclass(frozen=True)
class Verdict:
    """Content of a clip; None where it is ambiguous."""

    colour: str | None
    shape: str | None
    direction: str | None


UNDECIDED = Verdict(None, None, None)


def judge(frames: UInt8[np.ndarray, "t h w c"]) -> Verdict:
    """Returns the content of a clip, all None if it has no object of one colour.

    Args:
        frames: RGB, at least 12 pixels a side; one frame alone has no direction.

    Raises:
        ValueError: the frames are too small to distinguish shapes.
    """
    if min(frames.shape[1:3]) < 12:
        raise ValueError(
            f"frames are {frames.shape[1]}x{frames.shape[2]}, wanted at least 12x12; "
            "judge the clip at a higher resolution."
        )
    video = frames[:: -(-len(frames) // MOST_FRAMES)].astype(np.float32)
    background = _background(video)
    paint = _paint(video, background)
    if paint is None:
        return UNDECIDED
    alpha = _alpha(video, background, paint)
    areas = alpha.sum((1, 2))
    shown = areas > 0.3 * np.median(areas)
    share = np.median(areas) / alpha[0].size
    if not AREA[0] <= share <= AREA[1] or shown.mean() < 0.5:
        return UNDECIDED
    when = np.flatnonzero(shown)
    return Verdict(_colour(paint), _shape(alpha[shown]), _direction(alpha[shown], when))


def judge_image(frame: UInt8[np.ndarray, "h w c"]) -> Verdict:
    """Returns the content of an image; its direction is always None."""
    return judge(frame[None])


def track(frames: UInt8[np.ndarray, "t h w c"]) -> Float[np.ndarray, "t 2"] | None:
    """Returns the path of the object's centre of gravity, None if there is no object.

    Args:
        frames: RGB, at least 12 pixels a side.

    Returns:
        x and y in pixels, NaN in frames that do not show it.
    """
    video = frames.astype(np.float32)
    background = _background(video)
    paint = _paint(video, background)
    if paint is None:
        return None
    alpha = _alpha(video, background, paint)
    areas = alpha.sum((1, 2))
    shown = areas > 0.3 * np.median(areas)
    centres = np.full((len(video), 2), np.nan)
    centres[shown] = np.stack(_centre(alpha[shown]), 1)
    return centres


def _background(video: Float[np.ndarray, "t h w c"]) -> Float[np.ndarray, "c"]:
    """Returns the median of the border."""
    border = np.concatenate(
        [
            *(video[:, edge].reshape(-1, 3) for edge in (0, -1)),
            *(video[:, :, edge].reshape(-1, 3) for edge in (0, -1)),
        ]
    )
    return np.median(border, axis=0)


def _paint(
    video: Float[np.ndarray, "t h w c"], background: Float[np.ndarray, "c"]
) -> Float[np.ndarray, "c"] | None:
    """Returns the object's colour, None if there is no object of one colour."""
    difference = video - background
    chroma = np.ptp(difference, axis=-1)
    coloured = chroma > CHROMA
    if np.ptp(background) > CHROMA or coloured.mean() < AREA[0] / 2:
        return None
    # Edge pixels are mixed with the background; the core has the pure colour.
    core = chroma > max(CHROMA, 0.75 * np.quantile(chroma[coloured], 0.9))
    paint = np.median(video[core], axis=0)
    if np.ptp(paint) <= CHROMA:
        return None
    apart = _hue_distance(_hue(video[coloured]), _hue(paint[None]))
    return paint if np.mean(apart < HUE) > 0.8 else None


def _hue(colours: Float[np.ndarray, "n c"]) -> Float[np.ndarray, "n"]:
    """Returns the hues, in degrees."""
    red, green, blue = colours.T
    angle = np.arctan2(3**0.5 * (green - blue), 2 * red - green - blue)
    return np.degrees(angle)


def _hue_distance(
    hues: Float[np.ndarray, "n"], hue: Float[np.ndarray, "1"]
) -> Float[np.ndarray, "n"]:
    """Returns the distances of hues from a hue, 0 to 180 degrees."""
    return np.abs((hues - hue + 180) % 360 - 180)


def _colour(paint: Float[np.ndarray, "c"]) -> str | None:
    names = list(COLOURS)
    hues = _hue(np.array([COLOURS[name] for name in names], np.float32))
    apart = _hue_distance(hues, _hue(paint[None]))
    return names[apart.argmin()] if apart.min() < HUE else None


def _alpha(
    video: Float[np.ndarray, "t h w c"],
    background: Float[np.ndarray, "c"],
    paint: Float[np.ndarray, "c"],
) -> Float[np.ndarray, "t h w"]:
    """Returns the share of the object's colour in each pixel, 0 to 1."""
    axis = paint - background
    metric = np.eye(3, dtype=np.float32) + LUMA_WEIGHT * np.outer(LUMA, LUMA)
    alpha = (video - background) @ (metric @ axis / (axis @ metric @ axis))
    # Noise far from the object would bias its centre towards that of the frame.
    return np.where(alpha > 0.2, np.minimum(alpha, 1), 0)


def _centre(
    alpha: Float[np.ndarray, "t h w"],
) -> tuple[Float[np.ndarray, "t"], Float[np.ndarray, "t"]]:
    """Returns the centre of gravity of each frame, x and y in pixels."""
    areas = alpha.sum((1, 2))
    x = alpha.sum(1) @ (np.arange(alpha.shape[2]) + 0.5) / areas
    y = alpha.sum(2) @ (np.arange(alpha.shape[1]) + 0.5) / areas
    return x, y


def _direction(
    alpha: Float[np.ndarray, "t h w"], when: Int[np.ndarray, "t"]
) -> str | None:
    """Returns the direction of straight motion, None if there is none."""
    if len(when) < 2:
        return None
    centres = np.stack(_centre(alpha), 1)
    slope, start = np.polyfit(when, centres, 1)
    travel = slope * (when[-1] - when[0])
    scatter = np.sqrt(np.mean((centres - start - slope * when[:, None]) ** 2))
    main = np.abs(travel).argmax()
    least = max(
        TRAVEL * min(alpha.shape[1:]),
        DOMINANCE * abs(travel[1 - main]),
        DOMINANCE * scatter,
    )
    if abs(travel[main]) < least:
        return None
    unit = tuple(np.sign(travel).astype(int) * (np.arange(2) == main))
    return next(name for name, vector in DIRECTIONS.items() if vector == unit)


def _shape(alpha: Float[np.ndarray, "t h w"]) -> str | None:
    """Returns the shape whose templates correlate best, None if none does well."""
    alpha = alpha[:: max(1, len(alpha) // 8)]
    while min(alpha.shape[1:]) >= 2 * LARGEST:
        height, width = (side // 2 * 2 for side in alpha.shape[1:])
        quads = alpha[:, :height, :width].reshape(-1, height // 2, 2, width // 2, 2)
        alpha = quads.mean((2, 4))
    scores = {shape: _correlation(alpha, shape) for shape in SHAPES}
    best = max(scores, key=lambda shape: scores[shape])
    return best if scores[best] > CORRELATION else None


def _correlation(alpha: Float[np.ndarray, "t h w"], shape: str) -> float:
    """Returns the correlation with the best template, averaged over the frames."""
    frames, height, width = alpha.shape
    x, y = _centre(alpha)
    # The area at radius 1, from a drawing at radius 16.
    unit = coverage(shape, *np.full((2, 1), 32.0), np.float64(16), 64, 64).sum() / 256
    radius = np.sqrt(np.median(alpha.sum((1, 2))) / unit)
    scale, shift_y, shift_x = (
        grid.reshape(-1, 1) for grid in np.meshgrid(SCALES, OFFSETS, OFFSETS)
    )
    templates = coverage(
        shape,
        x + shift_x,
        y + shift_y,
        radius * scale * np.ones(frames),
        height,
        width,
    )
    templates = _normalise(templates.reshape(-1, frames, height * width))
    target = _normalise(alpha.reshape(frames, height * width))
    return float(np.einsum("ktp,tp->kt", templates, target).max(0).mean())


def _normalise(images: Float[np.ndarray, "*n p"]) -> Float[np.ndarray, "*n p"]:
    """Returns images of zero mean and unit length."""
    centred = images - images.mean(-1, keepdims=True)
    # A uniform frame has length 0; its correlation is 0.
    return centred / np.maximum(np.linalg.norm(centred, axis=-1, keepdims=True), 1e-6)
