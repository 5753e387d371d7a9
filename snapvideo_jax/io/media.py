"""Writes clips as MP4, GIF or PNG files, and tiles many clips into one sheet.

Every function takes frames as NumPy ``uint8`` in 0..255. Files are written atomically.
"""

import fractions
import io
import os
import pathlib
from collections.abc import Sequence

import av
import numpy as np
from einops import rearrange, repeat
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from snapvideo_jax.io.files import write_atomically
from snapvideo_jax.io.mp4 import Mp4Writer

FORMATS = ("mp4", "gif", "png")

_BACKGROUND = (245, 245, 245)
_FOREGROUND = (30, 30, 30)
_CAPTION_LINES = 6


def write_clip(
    stem: str | os.PathLike,
    frames: UInt8[np.ndarray, "t h w 3"],
    fps: float,
    formats: Sequence[str] = ("mp4",),
) -> list[pathlib.Path]:
    """Writes ``<stem>.<format>`` for each of ``formats``, and returns their paths.

    Args:
        stem: path without a suffix; its folder is created if needed.
        frames: the clip.
        fps: frames per second, > 0; a PNG strip ignores it.
        formats: any of "mp4", "gif", "png".

    Raises:
        ValueError: a format is unknown, or the clip is as for `write_mp4`.
    """
    check_formats(formats)
    paths = [pathlib.Path(f"{os.fspath(stem)}.{name}") for name in formats]
    for name, path in zip(formats, paths, strict=True):
        if name == "mp4":
            write_mp4(path, frames, fps)
        elif name == "gif":
            write_gif(path, frames, fps)
        else:
            write_png(path, frames)
    return paths


def check_formats(formats: Sequence[str]) -> None:
    """Checks that `write_clip` supports all formats.

    Raises:
        ValueError: names the first unknown format, and those that are known.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown:
        raise ValueError(
            f"--format={formats!r} holds {unknown[0]!r}; wanted a list of "
            f"{', '.join(FORMATS)}; use --format=mp4,gif."
        )


def write_mp4(
    path: str | os.PathLike, frames: UInt8[np.ndarray, "t h w 3"], fps: float
) -> None:
    """Writes an H.264 file that every browser plays (yuv420p, crf 18).

    An odd height or width is padded by repeating its last row or column, since the
    format stores chroma at half resolution.

    Raises:
        ValueError: ``frames`` is not a non-empty uint8 [t h w 3], or ``fps`` <= 0.
    """
    _check_clip(frames, fps)
    _, height, width, _ = frames.shape
    even = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), "edge")
    rate = fractions.Fraction(fps).limit_denominator(1001)
    writer = Mp4Writer(*even.shape[1:3], rate, {"crf": "18"})
    for frame in even:
        writer.add(av.VideoFrame.from_ndarray(frame, format="rgb24"))
    write_atomically(path, writer.close())


def write_gif(
    path: str | os.PathLike, frames: UInt8[np.ndarray, "t h w 3"], fps: float
) -> None:
    """Writes a GIF that loops forever; see `encode_gif`."""
    write_atomically(path, encode_gif(frames, fps))


def write_png(path: str | os.PathLike, frames: UInt8[np.ndarray, "t h w 3"]) -> None:
    """Writes the frames side by side, the first at the left, losslessly.

    Raises:
        ValueError: ``frames`` is not a non-empty uint8 [t h w 3].
    """
    _check_clip(frames, fps=1.0)
    buffer = io.BytesIO()
    Image.fromarray(rearrange(frames, "t h w c -> h (t w) c")).save(buffer, "png")
    write_atomically(path, buffer.getvalue())


def encode_gif(frames: UInt8[np.ndarray, "t h w 3"], fps: float) -> bytes:
    """A GIF that loops forever, as bytes.

    All frames share one palette without dithering, so static regions do not flicker. A
    clip of at most 256 colours is stored exactly. GIF durations are multiples of 10 ms:
    they are rounded so that the whole clip has the right length, up to 50 fps.

    Raises:
        ValueError: ``frames`` is not a non-empty uint8 [t h w 3], or ``fps`` <= 0.
    """
    _check_clip(frames, fps)
    ends = np.round(100 / min(fps, 50) * np.arange(len(frames) + 1)).astype(int)
    pages = _with_shared_palette(frames)
    buffer = io.BytesIO()
    pages[0].save(
        buffer,
        "gif",
        save_all=True,
        append_images=pages[1:],
        duration=[int(10 * length) for length in np.diff(ends)],
        loop=0,
        optimize=False,
        disposal=1,
    )
    return buffer.getvalue()


def contact_sheet(
    clips: UInt8[np.ndarray, "b t h w 3"],
    columns: int,
    labels: Sequence[str] | None = None,
    scale: int = 1,
    margin: int = 6,
    font_size: int = 11,
) -> UInt8[np.ndarray, "t H W 3"]:
    """One clip that shows all clips on a grid, row by row, with captions below them.

    Args:
        clips: the clips, b >= 1.
        columns: clips in a row, >= 1.
        labels: one caption per clip, any Unicode text; wrapped to the clip's width
            and cut after six lines.
        scale: integer enlargement of each pixel, >= 1.
        margin: pixels between clips and around the sheet.
        font_size: height of caption letters in pixels.

    Raises:
        ValueError: ``columns`` or ``scale`` is below 1, there is no clip, or there
            are not as many labels as clips.
    """
    _check_sheet(len(clips), columns, labels, scale)
    columns = min(columns, len(clips))
    large = repeat(clips, "b t h w c -> b t (h y) (w x) c", y=scale, x=scale)
    _, frames, height, width, _ = large.shape
    font = ImageFont.load_default(size=font_size)
    captions = [_wrap(label, font, width) for label in labels or [""] * len(large)]
    pitch = width + margin
    line = font_size + 3
    tops = [margin]
    for first in range(0, len(large), columns):
        lines = max(len(caption) for caption in captions[first : first + columns])
        tops.append(tops[-1] + height + margin + line * lines)
    canvas = Image.new("RGB", (columns * pitch + margin, tops[-1]), _BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    corners = [
        (tops[i // columns], margin + i % columns * pitch) for i in range(len(large))
    ]
    for (top, left), caption in zip(corners, captions, strict=True):
        for k, text in enumerate(caption):
            draw.text((left, top + height + 1 + k * line), text, _FOREGROUND, font)
    sheet = repeat(np.asarray(canvas), "h w c -> t h w c", t=frames).copy()
    for (top, left), clip in zip(corners, large, strict=True):
        sheet[:, top : top + height, left : left + width] = clip
    return sheet


def _with_shared_palette(frames: np.ndarray) -> list[Image.Image]:
    """The frames as paletted images that share one palette."""
    codes = frames.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    used = np.zeros(1 << 24, bool)
    used[codes] = True
    colours = np.flatnonzero(used)
    if len(colours) > 256:
        flat = rearrange(frames, "t h w c -> (t h w) c")
        sample = flat[:: max(1, len(flat) // 250_000), None]
        palette = Image.fromarray(sample).quantize(256, kmeans=2)
        return [
            Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE)
            for frame in frames
        ]
    number = np.zeros(1 << 24, np.uint8)
    number[colours] = np.arange(len(colours))
    levels = np.stack([colours >> 16, colours >> 8 & 255, colours & 255], axis=1)
    pages = [Image.fromarray(page) for page in number[codes]]
    for page in pages:
        page.putpalette(levels.astype(np.uint8).tobytes())
    return pages


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """``text`` in lines of at most ``width`` pixels, broken at spaces if possible."""
    words = text.encode(errors="replace").decode().split()
    lines = [""] if words else []
    for word in words:
        joined = f"{lines[-1]} {word}".strip()
        if font.getlength(joined) <= width:
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:
            if lines[-1] and font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    if len(lines) > _CAPTION_LINES:
        lines = lines[:_CAPTION_LINES]
        while lines[-1] and font.getlength(lines[-1] + "...") > width:
            lines[-1] = lines[-1][:-1]
        lines[-1] += "..."
    return lines


def _check_clip(frames: np.ndarray, fps: float) -> None:
    right = frames.dtype == np.uint8 and frames.ndim == 4 and frames.shape[-1] == 3
    if not right or 0 in frames.shape:
        raise ValueError(
            f"frames are {frames.dtype} of shape {frames.shape}; wanted uint8 of shape "
            "(t, h, w, 3) with no empty axis; convert a clip in -1..1 with "
            "np.uint8(np.round(127.5 * (clip + 1)))."
        )
    if not fps > 0:
        raise ValueError(f"fps={fps} is not above 0; use the frame rate of the clip.")


def _check_sheet(
    clips: int, columns: int, labels: Sequence[str] | None, scale: int
) -> None:
    if clips < 1:
        raise ValueError("clips holds 0 clips; wanted at least 1 to fill a sheet.")
    for name, value in (("columns", columns), ("scale", scale)):
        if value < 1:
            raise ValueError(f"{name}={value} is below 1; use {name}=1 or more.")
    if labels is not None and len(labels) != clips:
        raise ValueError(
            f"labels holds {len(labels)} captions for {clips} clips; wanted one per "
            "clip; use labels=None for none."
        )
