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

from collections.abc import Callable
from typing import NamedTuple, TypedDict

import flax.struct
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Shaped, UInt, UInt8, UInt32

CLIP_AXES = ("batch", None, "rows", None, None)
"""Logical axes of a clip, ``b t h w c``."""


# A batch passes through three stages, each with its type:
#
#     LoadedSample  one sample, decoded on the host, with its caption as a string
#     RawBatch      the rows of a global batch that one process loaded (NumPy), their
#                   captions in the form that the text encoder takes on the devices
#     Batch         the global batch on the devices, with text embeddings: the input
#                   of the train step


class LoadedSample(TypedDict):
    """One sample, as a data source yields it before batching.

    video, frame_interval, resolution, sample: as in `Batch`.
    caption: a string, in an array of dtype object.
    filtered: number of files that the filters rejected while this sample was loaded.
    moved: how many places after the first choice its file lies; 0 unless files before
        it could not be used.
    """

    video: UInt8[np.ndarray, "t h w c"]
    frame_interval: np.float32
    resolution: Float32[np.ndarray, "2"]
    caption: Shaped[np.ndarray, ""]
    sample: np.uint32
    filtered: np.int32
    moved: np.uint32


class RawBatch(TypedDict):
    """Rows of a global batch in the memory of the process that loaded them.

    video, frame_interval, resolution, text_mask, sample: as in `Batch`.
    text_input: what `text.TextEncoder.encode` returns, the input of the encoder's
        device half: token ids (``b n``) of an encoder that runs on the devices,
        embeddings (``b n f``) of all others.
    """

    video: UInt8[np.ndarray, "b t h w c"]
    frame_interval: Float32[np.ndarray, "b"]
    resolution: Float32[np.ndarray, "b 2"]
    text_input: Shaped[np.ndarray, "b n *f"]
    text_mask: Bool[np.ndarray, "b n"]
    sample: UInt32[np.ndarray, "b"]


class Fetched(NamedTuple):
    """One element of the data pipeline.

    batch: the rows of this process.
    moved: of each row, as in `LoadedSample`; for the ledger, not for the devices.
    """

    batch: RawBatch
    moved: UInt32[np.ndarray, "b"]


class Batch(TypedDict):
    """One joint batch of videos and images on the devices: the train step's input.

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
    """What a network is conditioned on, in addition to the noise level.

    text, text_mask, frame_interval, resolution: as in `Batch`.
    drop_text: True where all text tokens are replaced by the learned null token
        (label dropout in training, the unconditional half of guidance in sampling).
    low_resolution: for an upsampler, the small clip in the size of the large one.
    low_resolution_noise: standard deviation of the noise added to it.
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


def embedded(batch: RawBatch, embed: Callable[[Array, Array], Array]) -> Batch:
    """The batch with the text embeddings that ``embed(text_input, text_mask)`` returns.

    Args:
      batch: on the devices; it may lack fields other than those of text.
      embed: the device half of a text encoder, `text.TextEncoder.on_devices`.
    """
    text = embed(batch["text_input"], batch["text_mask"])
    rest = {name: leaf for name, leaf in batch.items() if name != "text_input"}
    return Batch(**rest, text=text)


def context_of(batch: Batch, drop_text: Array) -> Context:
    """The context of a batch, without its text where ``drop_text`` is True."""
    fields = ("text", "text_mask", "frame_interval", "resolution")
    return Context(**{name: batch[name] for name in fields}, drop_text=drop_text)
