"""Low-resolution conditioning of an upsampler (Sec. 3.4, 3.5, App. C.1).

A small clip is corrupted with a known amount of noise, so that the upsampler learns not
to trust its details, and resized to the size of the large one:

    enlarged = resize(x_lr + a * eps),        a ~ U(0, max_noise)      [C]

The noise is added before it is resized [C]: at 8 times the size, noise drawn for every
large pixel would average out and hide nothing.
"""

import jax
from einops import reduce
from jaxtyping import Array, Float

from snapvideo_jax.diffusion.edm import broadcast


def shrink(
    clip: Float[Array, "b t h w c"], size: tuple[int, int]
) -> Float[Array, "b t H W c"]:
    """The clip at ``size`` (height, width), each pixel the mean of a block.

    Raises:
      ValueError: ``size`` does not divide the clip's.
    """
    height, width = clip.shape[2:4]
    if height % size[0] or width % size[1]:
        raise ValueError(
            f"A clip of {width}x{height} px cannot be shrunk to {size[1]}x{size[0]} px "
            "by whole pixels; use a size that divides it."
        )
    return reduce(clip, "b t (H y) (W x) c -> b t H W c", "mean", H=size[0], W=size[1])


def enlarge(
    clip: Float[Array, "b t h w c"], size: tuple[int, int]
) -> Float[Array, "b t H W c"]:
    """The clip at ``size`` (height, width), resized bilinearly [P] Tab. 8."""
    batch, frames, _, _, channels = clip.shape
    return jax.image.resize(clip, (batch, frames, *size, channels), "bilinear")


def corrupted(
    low: Float[Array, "b t h w c"],
    eps: Float[Array, "b t h w c"],
    level: Float[Array, "b"],
    size: tuple[int, int],
) -> Float[Array, "b t H W c"]:
    """Low-resolution conditioning: ``low`` plus ``level`` of ``eps``, at ``size``."""
    return enlarge(low + broadcast(level, low) * eps, size)
