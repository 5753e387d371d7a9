"""Context tokens: the caption's, and one each for everything else a clip is told by.

Label dropout and the unconditional half of guidance are the same thing: all text
tokens are replaced by one learned null token, everything else stays.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from snapvideo_jax.models.layers import Dense, param_init, sinusoid
from snapvideo_jax.types import Context

NUMBERS = ("noise_level", "frame_interval", "resolution_height", "resolution_width")
"""What has a context token beside the text."""
UPSAMPLER_NUMBERS = (*NUMBERS, "low_resolution_noise")
"""The same for an upsampler."""


class ContextTokens(nn.Module):
    """Text, noise level, frame interval, original resolution, low-resolution noise.

    The last is there for upsamplers only. A number becomes a token through sines and
    cosines and ``f -> 2f -> f`` [C].

    Attributes:
      width: channels of a context token. [P] Tab. 8.
      dtype: what is computed in.
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
        drop = context.drop_text | ~context.text_mask.any(axis=1)
        first = jnp.arange(text.shape[1]) == 0
        mask = jnp.where(drop[:, None], first[None], context.text_mask)
        null = null.astype(text.dtype)[None, None]
        return jnp.where(drop[:, None, None], null, text), mask

    def _number(self, value: Float[Array, "b"], name: str) -> Float[Array, "b f"]:
        token = sinusoid(value, self.width)
        inner, outer = ("embed", "mlp"), ("from_mlp", "to_embed")
        hidden = Dense(2 * self.width, inner, self.dtype, name=f"{name}_hidden")
        out = Dense(self.width, outer, self.dtype, name=f"{name}_out")
        return out(nn.gelu(hidden(token)))
