"""The letters every shape is written in, and the structures that cross module borders.

Array axes are spelled with these letters in every signature, einsum and rearrange:

    pixels   b batch · t frames · h height · w width · c colour
    tokens   g groups · p patches in a group · d patch width
    latents  l latents of all groups = (g m) · m latents in a group · e latent width
    context  n context tokens · f context width
    inside   a heads · v head width · q k query and key positions (attention only)
    patchify T H W grid counts · pt ph pw patch sizes

``sigma`` is always a noise level, ``step`` always optimizer time, and
``frame_interval`` the time between two frames in seconds (0 for an image, which is
a video of equal frames at infinite frame-rate, Sec. 3.3).
"""

from typing import TypedDict

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Shaped, UInt, UInt8

CLIP_AXES = ("batch", None, "rows", None, None)
"""Logical axes of a clip, ``b t h w c``."""


class Batch(TypedDict):
    """One joint batch of videos and images, as the pipeline hands it to the device.

    video: frames in 0..255; an image is repeated ``t`` times.
    frame_interval: seconds between frames; 0 marks an image.
    resolution: height and width of the original file, in pixels.
    text: frozen text embedding of the caption, zero past its length.
    text_mask: True where ``text`` holds a token of the caption.
    sample: position in the global sample sequence, ``step * batch + i``. All noise
        is derived from it, so results do not depend on the device that holds a sample.
    """

    video: UInt8[Array, "b t h w c"]
    frame_interval: Float[Array, "b"]
    resolution: Float[Array, "b 2"]
    text: Float[Array, "b n f"]
    text_mask: Bool[Array, "b n"]
    sample: UInt[Array, "b"]


@flax.struct.dataclass
class Context:
    """What a network is conditioned on, beside the noise level.

    text, text_mask, frame_interval, resolution: as in `Batch`.
    drop_text: True where all text tokens are replaced by the learned null token
        (label dropout in training, the unconditional half of guidance in sampling).
    low_resolution: for an upsampler, the small clip in the size of the large one.
    low_resolution_noise: standard deviation of the noise that is in it.
    """

    text: Float[Array, "b n f"]
    text_mask: Bool[Array, "b n"]
    frame_interval: Float[Array, "b"]
    resolution: Float[Array, "b 2"]
    drop_text: Bool[Array, "b"]
    low_resolution: Float[Array, "b t h w c"] | None = None
    low_resolution_noise: Float[Array, "b"] | None = None


@flax.struct.dataclass
class Latents:
    """Latents of a previous network call, for self-conditioning.

    value: latent tokens after the last block.
    known: False where there is no previous call (first sampling step; training
        samples that are not self-conditioned); ``value`` is then ignored.
    """

    value: Float[Array, "b l e"]
    known: Bool[Array, "b"]


Keys = Shaped[Array, "b"]
"""One PRNG key per sample (typed keys, ``jax.random.key``)."""


def pixels(video: Array) -> Float[Array, "b t h w c"]:
    """0..255 to -1..1."""
    return video.astype(jnp.float32) / 127.5 - 1


def context_of(batch: Batch, drop_text: Array) -> Context:
    """The context of a batch, its text dropped where asked."""
    fields = ("text", "text_mask", "frame_interval", "resolution")
    return Context(**{name: batch[name] for name in fields}, drop_text=drop_text)
