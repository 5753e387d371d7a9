"""Context tokens: those of the caption, and one for each number of the conditioning.

Label dropout and the unconditional half of guidance are the same operation: all text
tokens are replaced by one learned null token, the others stay.
Networks whose blocks are scaled and shifted (U-Net, DiT) take the numbers as one
vector, the sum of an embedding of each.
"""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange
from flax.typing import Initializer
from jaxtyping import Array, Bool, Float

from snapvideo_jax.models.layers import KERNEL_INIT, Dense, param_init, sinusoid
from snapvideo_jax.types import Context

NUMBERS = ("noise_level", "frame_interval", "resolution_height", "resolution_width")
"""Numbers that have a context token each."""
UPSAMPLER_NUMBERS = (*NUMBERS, "low_resolution_noise")
"""The same for an upsampler."""


def dropped_text(context: Context) -> tuple[Bool[Array, "b"], Bool[Array, "b n"]]:
    """Samples whose text is the null token, and the mask of text tokens.

    The null token stands at position 0, where the text is dropped or empty.
    """
    drop = context.drop_text | ~context.text_mask.any(axis=1)
    first = jnp.arange(context.text_mask.shape[1]) == 0
    return drop, jnp.where(drop[:, None], first[None], context.text_mask)


class ContextTokens(nn.Module):
    """Text, noise level, frame interval, original resolution, low-resolution noise.

    Only upsamplers have the last. A number becomes a token through sines and cosines
    and ``f -> 2f -> f`` [C].

    Attributes:
      width: channels of a context token. [P] Tab. 8.
      dtype: of the computation.
    """

    width: int
    dtype: str

    @nn.compact
    def __call__(
        self, c_noise: Float[Array, "b"], context: Context
    ) -> tuple[Float[Array, "b n f"], Bool[Array, "b n"]]:
        """The tokens, and True where a token may be attended to."""
        text, text_mask = self._text(context)
        height, width = jnp.split(jnp.log(context.resolution), 2, axis=-1)
        numbers = [c_noise, context.frame_interval, height[:, 0], width[:, 0]]
        names = NUMBERS
        if context.low_resolution_noise is not None:
            numbers.append(context.low_resolution_noise)
            names = UPSAMPLER_NUMBERS
        tokens = jnp.stack(
            [self._number(*pair) for pair in zip(numbers, names, strict=True)], axis=1
        )
        always = jnp.ones(tokens.shape[:2], bool)
        return (
            jnp.concatenate([text, tokens], axis=1),
            jnp.concatenate([text_mask, always], axis=1),
        )

    def _text(self, context: Context):
        """Projected text; where dropped or empty, the null token at position 0."""
        null = self.param(
            "null_text", param_init(nn.initializers.normal(1.0), "embed"), (self.width,)
        )
        axes = ("text", "to_embed")
        text = Dense(self.width, axes, self.dtype, name="text")(context.text)
        drop, mask = dropped_text(context)
        null = null.astype(text.dtype)[None, None]
        return jnp.where(drop[:, None, None], null, text), mask

    def _number(self, value: Float[Array, "b"], name: str) -> Float[Array, "b f"]:
        token = sinusoid(value, self.width)
        inner, outer = ("embed", "mlp"), ("from_mlp", "to_embed")
        hidden = Dense(2 * self.width, inner, self.dtype, name=f"{name}_hidden")
        out = Dense(self.width, outer, self.dtype, name=f"{name}_out")
        return out(nn.gelu(hidden(token)))


def null_where_dropped(
    context: Context,
) -> tuple[Float[Array, "b n f"], Bool[Array, "b n"]]:
    """The text before it is projected, and its mask, for U-Net and DiT.

    A dropped text is one token of zeros, which the projection maps to its bias: a
    learned null token like FIT's, without another parameter [C].
    """
    drop, mask = dropped_text(context)
    return jnp.where(drop[:, None, None], 0.0, context.text), mask


class NumbersVector(nn.Module):
    """Noise level, frame interval and resolution as one vector, in float32.

    Each becomes sines and cosines, then ``base -> width -> width`` with SiLU; their sum
    scales and shifts the blocks of a network.

    Attributes:
      base: channels of sines and cosines; height and width of the resolution share
        them.
      width: channels of the vector.
      init: of the kernels.
      bias_init: initializer of the biases, from the number of input channels.
    """

    base: int
    width: int
    init: Initializer = KERNEL_INIT
    bias_init: Callable[[int], Initializer] = lambda _: nn.initializers.zeros

    @nn.compact
    def __call__(
        self, c_noise: Float[Array, "b"], context: Context
    ) -> Float[Array, "b e"]:
        height, width = rearrange(jnp.log(context.resolution), "b s -> s b")
        numbers = {
            "noise_level": (c_noise,),
            "frame_interval": (context.frame_interval,),
            "resolution": (height, width),
        }
        return sum(self._embedded(name, *values) for name, values in numbers.items())

    def _embedded(self, name: str, *values: Float[Array, "b"]) -> Float[Array, "b e"]:
        waves = [sinusoid(value, self.base // len(values)) for value in values]

        def dense(fan_in, name, *axes):
            init = dict(init=self.init, bias_init=self.bias_init(fan_in))
            return Dense(self.width, axes, "float32", name=name, **init)

        hidden = dense(self.base, f"{name}_hidden", "embed", "mlp")
        out = dense(self.width, f"{name}_out", "from_mlp", "to_embed")
        return out(nn.silu(hidden(jnp.concatenate(waves, axis=-1))))
