"""The blocks of the U-Net: residual blocks, and attention to self and text at once.

The residual block is that of arXiv 2105.05233 (ADM), per frame: nothing convolves or
normalises over time. Attention follows arXiv 2112.10741 (GLIDE): every block projects
the text to keys and values, and one softmax covers those and its own. Clips are
``b t h w c`` throughout. The text's keys are computed once for a clip and not copied
for its frames or positions.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange, repeat
from flax.typing import Initializer
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float

from snapvideo_jax.models.attention import ATTENTION, with_text
from snapvideo_jax.models.layers import Dense, drop, param_init, sinusoid
from snapvideo_jax.models.remat import PRODUCT
from snapvideo_jax.parallel.sharding import constrain, gathered

UNIFORM = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""Kernels uniform within ``1 / sqrt(fan_in)``, PyTorch's default."""
TIMES = ("sinusoid", "relative", "none")
"""Encodings of the order of frames in attention over time."""


def uniform_bias(fan_in: int) -> Initializer:
    """Biases uniform within ``1 / sqrt(fan_in)``, PyTorch's default."""
    bound = fan_in**-0.5

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def linear(fan_in: int, features: int, axes, dtype: str, name: str) -> Dense:
    """A linear layer of ``fan_in`` channels with PyTorch's initialization."""
    init = dict(init=UNIFORM, bias_init=uniform_bias(fan_in))
    return Dense(features, axes, dtype, name=name, **init)


class Conv(nn.Module):
    """A convolution over height and width that keeps the size of a clip.

    Attributes:
      features: output channels.
      size: rows and columns of the kernel.
      axes: logical axes of its input and output channels.
      dtype: of the computation.
      zero: kernel and bias start at zero.
    """

    features: int
    size: int
    dtype: str
    axes: tuple[str, str] = ("embed", "to_embed")
    zero: bool = False

    @nn.compact
    def __call__(self, clip: Float[Array, "b t h w c"]) -> Float[Array, "b t h w o"]:
        width = clip.shape[-1]
        axes = (None, None, *self.axes)
        init = nn.initializers.zeros if self.zero else UNIFORM
        shape = (self.size, self.size, width, self.features)
        kernel = self.param("kernel", param_init(init, *axes), shape)
        fan_in = self.size**2 * width
        init = nn.initializers.zeros if self.zero else uniform_bias(fan_in)
        init = param_init(init, self.axes[-1])
        bias = self.param("bias", init, (self.features,))
        images = rearrange(clip, "b t h w c -> (b t) h w c").astype(self.dtype)
        out = jax.lax.conv_general_dilated(
            images,
            gathered(kernel.astype(self.dtype), *axes),
            window_strides=(1, 1),
            padding="SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        out = checkpoint_name(out, PRODUCT)
        out = out + jnp.expand_dims(bias.astype(self.dtype), (0, 1, 2))
        return rearrange(out, "(b t) h w c -> b t h w c", t=clip.shape[1])


class FrameNorm(nn.Module):
    """GroupNorm of every frame separately, in float32.

    Channels are summed over the frame before they are grouped: a TPU would pad the few
    channels of a group to a whole tile.
    """

    groups: int
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, clip: Float[Array, "b t h w c"]) -> Float[Array, "b t h w c"]:
        width = (clip.shape[-1],)
        scale = self.param("scale", param_init(nn.initializers.ones, "norm"), width)
        bias = self.param("bias", param_init(nn.initializers.zeros, "norm"), width)
        clip = clip.astype(jnp.float32)

        def grouped(values):
            """The mean over a frame and the channels of a group, for every channel."""
            means = rearrange(
                values.mean(axis=(2, 3)), "b t (g c) -> b t g c", g=groups
            )
            return repeat(
                means.mean(axis=-1), "b t g -> b t (g c)", c=width[0] // groups
            )

        groups = self.groups
        mean = grouped(clip)
        variance = jnp.maximum(grouped(jnp.square(clip)) - jnp.square(mean), 0.0)
        slope = jax.lax.rsqrt(variance + self.epsilon) * jnp.expand_dims(scale, (0, 1))
        offset = jnp.expand_dims(bias, (0, 1)) - mean * slope
        return clip * _over_frame(slope) + _over_frame(offset)


def _over_frame(values: Float[Array, "b t c"]) -> Float[Array, "b t 1 1 c"]:
    return rearrange(values, "b t c -> b t 1 1 c")


def resampled(clip: Float[Array, "b t h w c"], by: int) -> Float[Array, "b t H W c"]:
    """Half the size by means (-1), twice the size by repetition (1), or unchanged."""
    if by > 0:
        return repeat(clip, "b t h w c -> b t (h y) (w x) c", y=2, x=2)
    if by < 0:
        fours = rearrange(clip, "b t (h y) (w x) c -> b t h w y x c", y=2, x=2)
        return fours.mean(axis=(4, 5))
    return clip


class Residual(nn.Module):
    """A residual block, scaled and shifted by the embedding of the numbers.

    ``conv(SiLU(GN(x)))``, then ``conv(SiLU(GN(h) (1 + scale) + shift))``, which starts
    at zero, plus ``x``. Resampling happens before the first convolution.

    Attributes:
      features: output channels.
      resample: -1 halves height and width, 1 doubles them.
      norm_groups: groups of GroupNorm.
      dropout: before the second convolution. [P] Tab. 7: 0.1.
      dtype: of the computation.
    """

    features: int
    resample: int
    norm_groups: int
    dropout: float
    dtype: str

    @nn.compact
    def __call__(
        self,
        clip: Float[Array, "b t h w c"],
        embedding: Float[Array, "b e"],
        train: bool,
    ) -> Float[Array, "b t H W o"]:
        clip = constrain(clip, "batch", None, None, None, None)
        hidden = nn.silu(FrameNorm(self.norm_groups, name="norm")(clip))
        hidden = resampled(hidden.astype(self.dtype), self.resample)
        clip = resampled(clip, self.resample)
        hidden = Conv(self.features, 3, self.dtype, name="conv")(hidden)
        scale_shift = linear(
            embedding.shape[-1],
            2 * self.features,
            ("embed", "to_embed"),
            self.dtype,
            "scale_shift",
        )(nn.silu(embedding))
        scale, shift = jnp.split(
            rearrange(scale_shift.astype(jnp.float32), "b c -> b 1 1 1 c"), 2, axis=-1
        )
        hidden = FrameNorm(self.norm_groups, name="hidden_norm")(hidden)
        hidden = nn.silu(hidden * (1 + scale) + shift).astype(self.dtype)
        if self.dropout and train:
            hidden = drop(hidden, self.dropout, self.make_rng("dropout"))
        hidden = Conv(self.features, 3, self.dtype, zero=True, name="conv_out")(hidden)
        if clip.shape[-1] != self.features:
            clip = Conv(self.features, 1, self.dtype, name="skip")(clip)
        return clip + hidden


class TextAttention(nn.Module):
    """Attention among the positions of a frame, or the frames of a position, and text.

    Attributes:
      over: "space" or "time".
      head_width: channels of a head. [P] Tab. 7: 64.
      norm_groups: groups of GroupNorm.
      time: encoding of the order of frames in attention over time: "sinusoid" adds
        sines and cosines to its input, without parameters; "relative" learns a bias for
        every head and distance; "none" is invariant to the order.
      frames: most frames of a clip.
      dtype: of the computation.
    """

    over: str
    head_width: int
    norm_groups: int
    time: str
    frames: int
    dtype: str

    @nn.compact
    def __call__(
        self,
        clip: Float[Array, "b t h w c"],
        text: Float[Array, "b n f"],
        text_mask: Bool[Array, "b n"],
    ) -> Float[Array, "b t h w c"]:
        clip = constrain(clip, "batch", None, None, None, None)
        frames, rows, _, width = clip.shape[1:]
        heads = width // self.head_width
        fold, unfold = "b t h w c -> b t (h w) c", "b t (h w) c -> b t h w c"
        if self.over == "time":
            fold, unfold = "b t h w c -> b (h w) t c", "b (h w) t c -> b t h w c"
        # Frames are normalised before their positions are separated.
        tokens = FrameNorm(self.norm_groups, name="norm")(clip)
        bias = None
        if self.over == "time" and self.time == "sinusoid":
            waves = sinusoid(jnp.arange(frames) / self.frames, width, 0.1, 4.0)
            tokens = tokens + rearrange(waves, "t c -> 1 t 1 1 c")
        if self.over == "time" and self.time == "relative":
            bias = self._relative(frames, heads)
        tokens = rearrange(tokens.astype(self.dtype), fold)

        def project(tokens, name, places):
            fan_in, axes = tokens.shape[-1], ("embed", "heads")
            out = linear(fan_in, width, axes, self.dtype, name)(tokens)
            out = rearrange(out, "... (a v) -> ... a v", a=heads)
            return constrain(out, *places, "heads", None)

        own = [
            project(tokens, n, ("batch", None, None)) for n in ("query", "key", "value")
        ]
        theirs = [project(text, n, ("batch", None)) for n in ("text_key", "text_value")]
        seen = checkpoint_name(with_text(*own, *theirs, text_mask, bias), ATTENTION)
        seen = rearrange(seen, "... a v -> ... (a v)")
        axes, zeros = ("from_heads", "to_embed"), nn.initializers.zeros
        out = Dense(width, axes, self.dtype, zeros, name="out")(seen)
        return clip + rearrange(out, unfold, h=rows)

    def _relative(self, frames: int, heads: int) -> Float[Array, "a q k"]:
        """Biases of the scores of two frames, by their distance."""
        shape = (2 * self.frames - 1, heads)
        init = param_init(nn.initializers.zeros, None, None)
        table = self.param("time_bias", init, shape)
        place = jnp.arange(frames)
        apart = jnp.expand_dims(place, 0) - jnp.expand_dims(place, 1)
        return rearrange(table[apart + self.frames - 1], "q k a -> a q k")
