"""CLIP's two encoders (Radford et al., arXiv 2103.00020), as ViT-B/32 of OpenAI.

CLIPSIM compares the embedding of each frame with that of the caption; CLIP-FID compares
the unnormalised embeddings of many frames. The activation is QuickGELU,
``x sigmoid(1.702 x)``; weights that were trained with GELU need another network.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float, Int

from snapvideo_jax.evaluation.nets.layers import HIGHEST, Convolution

EPSILON = 1e-5


@dataclasses.dataclass(frozen=True)
class CLIPSizes:
    """Sizes of a CLIP; the defaults are ViT-B/32.

    Attributes:
      size, patch: side of an image and of a patch, in pixels.
      width, layers, heads: of the image encoder.
      text_width, text_layers, text_heads: of the text encoder.
      vocabulary: number of tokens.
      context: tokens of a caption.
      embedding: channels of both outputs.
    """

    size: int = 224
    patch: int = 32
    width: int = 768
    layers: int = 12
    heads: int = 12
    text_width: int = 512
    text_layers: int = 12
    text_heads: int = 8
    vocabulary: int = 49408
    context: int = 77
    embedding: int = 512


class CLIP(nn.Module):
    """Both encoders; call `image` and `text`."""

    sizes: CLIPSizes = CLIPSizes()

    def setup(self):
        sizes = self.sizes
        self.vision = Vision(sizes)
        self.language = Language(sizes)

    def __call__(self, pictures, tokens):
        return self.image(pictures), self.text(tokens)

    def image(self, pictures: Float[Array, "b s s 3"]) -> Float[Array, "b o"]:
        """Embeddings of images with normalised channels."""
        return self.vision(pictures)

    def text(self, tokens: Int[Array, "b n"]) -> Float[Array, "b o"]:
        """Embeddings of captions, read at their end token."""
        return self.language(tokens)


class Vision(nn.Module):
    """The image encoder: patches and a class token to an embedding."""

    sizes: CLIPSizes

    @nn.compact
    def __call__(self, pictures: Float[Array, "b s s 3"]) -> Float[Array, "b o"]:
        sizes, normal = self.sizes, nn.initializers.normal(0.02)
        patch = (sizes.patch, sizes.patch)
        x = Convolution(sizes.width, patch, patch, "VALID", False, name="patches")(
            pictures
        )
        x = rearrange(x, "b h w c -> b (h w) c")
        first = self.param("first", normal, (sizes.width,))
        first = jnp.broadcast_to(first, (len(x), 1, sizes.width))
        x = jnp.concatenate([first, x], axis=1)
        x = x + self.param("positions", normal, x.shape[1:])[None]
        x = _norm("norm_before")(x)
        for layer in range(sizes.layers):
            x = Block(sizes.heads, False, name=f"block{layer}")(x)
        x = _norm("norm_after")(x[:, 0])
        return _linear(sizes.embedding, "out", use_bias=False)(x)


class Language(nn.Module):
    """The text encoder: causal attention over a caption's tokens to an embedding."""

    sizes: CLIPSizes

    @nn.compact
    def __call__(self, tokens: Int[Array, "b n"]) -> Float[Array, "b o"]:
        sizes, normal = self.sizes, nn.initializers.normal(0.02)
        table = self.param("table", normal, (sizes.vocabulary, sizes.text_width))
        positions = self.param("positions", normal, (sizes.context, sizes.text_width))
        x = jnp.take(table, tokens, axis=0) + positions[None, : tokens.shape[1]]
        for layer in range(sizes.text_layers):
            x = Block(sizes.text_heads, True, name=f"block{layer}")(x)
        x = _norm("norm_after")(x)
        # The end token has the largest id; padding may repeat it.
        end = jnp.argmax(tokens, axis=1)
        x = jnp.take_along_axis(x, end[:, None, None], axis=1)[:, 0]
        return _linear(sizes.embedding, "out", use_bias=False)(x)


class Block(nn.Module):
    """A pre-norm transformer block."""

    heads: int
    causal: bool

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        x = x + self._attention(_norm("norm1")(x))
        width = x.shape[-1]
        hidden = _linear(4 * width, "hidden")(_norm("norm2")(x))
        hidden = hidden * jax.nn.sigmoid(1.702 * hidden)
        return x + _linear(width, "hidden_out")(hidden)

    def _attention(self, x):
        width, tokens = x.shape[-1], x.shape[1]

        def project(name):
            out = _linear(width, name)(x)
            return rearrange(out, "b n (a v) -> b a n v", a=self.heads)

        query, key, value = map(project, ("query", "key", "value"))
        scores = jnp.einsum("baqv,bakv->baqk", query, key, precision=HIGHEST)
        scores = scores * (width // self.heads) ** -0.5
        if self.causal:
            seen = np.tril(np.ones((tokens, tokens), bool))
            scores = jnp.where(seen[None, None], scores, -jnp.inf)
        weights = jax.nn.softmax(scores, axis=-1)
        out = jnp.einsum("baqk,bakv->baqv", weights, value, precision=HIGHEST)
        return _linear(width, "out")(rearrange(out, "b a n v -> b n (a v)"))


def _norm(name: str) -> nn.LayerNorm:
    # The fast variance loses precision where the mean is large.
    return nn.LayerNorm(epsilon=EPSILON, use_fast_variance=False, name=name)


def _linear(features: int, name: str, use_bias: bool = True) -> nn.Dense:
    return nn.Dense(features, use_bias, precision=HIGHEST, name=name)
