"""Decodes images, JPEGs at a reduced size where that suffices."""

import io

import av
import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from snapvideo_jax.data.container import MAX_PIXELS, Encoded, UnusableClip, size_of
from snapvideo_jax.data.rescale import Size, cover_size, to_rgb


def decode_image(
    data: Encoded, cover: Size | None = None
) -> UInt8[np.ndarray, "h w c"]:
    """An image as RGB, rotated as its EXIF orientation says.

    Args:
        data: content or path of a file.
        cover: scale it to the smallest size of its aspect ratio that covers this size;
            None: leave its size.

    Raises:
        UnusableClip: not an image, truncated, or too large.
    """
    return sized_image(data, cover)[0]


def sized_image(
    data: Encoded, cover: Size | None = None
) -> tuple[UInt8[np.ndarray, "h w c"], Size]:
    """As `decode_image`, with height and width of the image before scaling."""
    try:
        with _open(data) as image:
            own = size = _upright_size(image)
            if cover:
                size = cover_size(own, cover)
                # A JPEG decodes faster at 1/8, 1/4 or 1/2 of its size; at least twice
                # the needed size leaves the averaging to the exact filter below.
                image.draft("RGB", (2 * max(size), 2 * max(size)))
            rgb = np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except UnidentifiedImageError:
        # Pillow's message contains a memory address, which varies.
        raise UnusableClip("not a readable image (of no known format)") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnusableClip(f"not a readable image ({error})") from error
    if rgb.shape[:2] != size:
        rgb = to_rgb(av.VideoFrame.from_ndarray(rgb, "rgb24"), size)
    return rgb, own


def image_size(data: Encoded) -> Size:
    """Height and width of an image as displayed, from its header.

    Raises:
        UnusableClip: not an image, or too large.
    """
    try:
        with _open(data) as image:
            return _upright_size(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise UnusableClip("not a readable image (of no known format)") from None


def _open(data: Encoded) -> Image.Image:
    size_of(data)  # refuses files that are empty or missing
    return Image.open(io.BytesIO(data) if isinstance(data, bytes) else data)


def _upright_size(image: Image.Image) -> Size:
    if image.width * image.height > MAX_PIXELS:
        raise UnusableClip(f"{image.width}x{image.height} pixels are too large")
    lies = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
    return (image.width, image.height) if lies else (image.height, image.width)
