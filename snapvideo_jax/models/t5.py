"""T5's encoder: token ids to embeddings (Raffel et al., arXiv 1910.10683).

Residual blocks of self-attention and a feed-forward, each behind an RMS norm. There
are no biases and scores are not scaled. Positions enter as one learned number for each
head and range of distances, added to the scores of every block. v1.0 has relu, v1.1 a
gated GELU. The residual stream is float32 for any ``dtype``: its values grow into the
thousands, and bfloat16 has 8 bits.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Bool, Float, Int

from snapvideo_jax.models.layers import Kernel, param_init
from snapvideo_jax.parallel.sharding import constrain, gathered


@dataclasses.dataclass(frozen=True)
class T5Sizes:
    """Sizes of a T5 encoder.

    Attributes:
      width: channels of a token.
      layers, heads, head_width: of the attention; its inner width need not be
        ``width``.
      hidden: hidden units of a feed-forward.
      gated: gated GELU (v1.1) in place of relu (v1.0).
      vocabulary: rows of the embedding table, at least the tokenizer's pieces.
      buckets, max_distance: number of ranges of distances, and start of the last one.
      epsilon: of the RMS norms.
    """

    width: int
    layers: int
    heads: int
    head_width: int
    hidden: int
    gated: bool
    vocabulary: int = 32128
    buckets: int = 32
    max_distance: int = 128
    epsilon: float = 1e-6


SIZES = {
    name: T5Sizes(*sizes, gated="v1_1" in name)
    for name, sizes in {
        "t5-small": (512, 6, 8, 64, 2048),
        "t5-base": (768, 12, 12, 64, 3072),
        "t5-large": (1024, 24, 16, 64, 4096),
        "t5-3b": (1024, 24, 32, 128, 16384),
        "t5-11b": (1024, 24, 128, 128, 65536),
        "t5-v1_1-small": (512, 8, 6, 64, 1024),
        "t5-v1_1-base": (768, 12, 12, 64, 2048),
        "t5-v1_1-large": (1024, 24, 16, 64, 2816),
        "t5-v1_1-xl": (2048, 24, 32, 64, 5120),
        "t5-v1_1-xxl": (4096, 24, 64, 64, 10240),
    }.items()
}
"""The published sizes. [P] The paper's encoder is t5-11b."""


def encoder_parameters(sizes: T5Sizes) -> int:
    """Parameters of an encoder with its embedding table, from its sizes."""
    inner = sizes.heads * sizes.head_width
    kernels = sizes.width * (4 * inner + (2 + sizes.gated) * sizes.hidden)
    tables = sizes.vocabulary * sizes.width + sizes.buckets * sizes.heads
    return sizes.layers * (kernels + 2 * sizes.width) + tables + sizes.width


def encoder_flops(sizes: T5Sizes, tokens: int) -> float:
    """FLOPs of encoding one caption padded to ``tokens``; matrix products only."""
    inner = sizes.heads * sizes.head_width
    products = 4 * inner + (2 + sizes.gated) * sizes.hidden
    return sizes.layers * tokens * (2 * sizes.width * products + 4 * tokens * inner)


def position_buckets(
    tokens: int, buckets: int = 32, max_distance: int = 128
) -> Int[np.ndarray, "q k"]:
    """The range of each key's distance from each query.

    Half of the ranges are for keys behind the query. Of each half, the first half are
    single distances, and the others grow geometrically up to ``max_distance``.
    """
    distance = np.arange(tokens)[None] - np.arange(tokens)[:, None]
    half = buckets // 2
    single = half // 2
    away = np.abs(distance)
    growth = np.log(np.maximum(away, 1) / single) / np.log(max_distance / single)
    far = np.minimum(single + (growth * (half - single)).astype(int), half - 1)
    return half * (distance > 0) + np.where(away < single, away, far)


class Block(nn.Module):
    """Self-attention and feed-forward."""

    sizes: T5Sizes
    dtype: str

    @nn.compact
    def __call__(
        self,
        stream: Float[Array, "b n f"],
        bias: Float[Array, "1 a n n"],
        mask: Bool[Array, "b n"],
    ) -> tuple[Float[Array, "b n f"], None]:
        """``mask`` is True where a token may be attended to."""
        normed = rms_norm(self.sizes, self.dtype, "attention_norm")(stream)
        stream = stream + self._attention(normed, bias, mask)
        normed = rms_norm(self.sizes, self.dtype, "feed_forward_norm")(stream)
        return stream + self._feed_forward(normed), None

    def _attention(self, tokens, bias, mask):
        inner = self.sizes.heads * self.sizes.head_width

        def project(name):
            out = self._linear(name, tokens, inner, ("embed", "heads"))
            out = rearrange(out, "b n (a v) -> b n a v", a=self.sizes.heads)
            return constrain(out, "batch", None, "heads", None)

        seen = jax.nn.dot_product_attention(
            *map(project, ("query", "key", "value")),
            bias=bias,
            mask=mask[:, None, None, :],
            scale=1.0,
        )
        seen = rearrange(seen, "b n a v -> b n (a v)")
        return self._linear("out", seen, self.sizes.width, ("from_heads", "to_embed"))

    def _feed_forward(self, tokens):
        def hidden_units(name):
            out = self._linear(name, tokens, self.sizes.hidden, ("embed", "mlp"))
            return constrain(out, "batch", None, "mlp")

        if self.sizes.gated:
            hidden = nn.gelu(hidden_units("gate")) * hidden_units("hidden")
        else:
            hidden = nn.relu(hidden_units("hidden"))
        axes = ("from_mlp", "to_embed")
        return self._linear("hidden_out", hidden, self.sizes.width, axes)

    def _linear(self, name, tokens, features, axes):
        kernel = Kernel(features, axes, self.dtype, name=name)(tokens.shape[-1])
        return jnp.einsum("bni,io->bno", tokens, kernel)


class T5Encoder(nn.Module):
    """Embeddings of tokens, the output of T5's encoder.

    Attributes:
      sizes: see `SIZES`.
      dtype: of the computation; the stream, norms and softmax are float32.
    """

    sizes: T5Sizes
    dtype: str = "bfloat16"

    @nn.compact
    def __call__(
        self, ids: Int[Array, "b n"], mask: Bool[Array, "b n"]
    ) -> Float[Array, "b n f"]:
        """Embeddings in float32; undefined for padding, where ``mask`` is False.

        Args:
          ids: of tokens, below ``sizes.vocabulary``.
          mask: True up to a caption's length.
        """
        sizes = self.sizes
        table = self.param(
            "embedding",
            param_init(nn.initializers.normal(1.0), "table", None),
            (sizes.vocabulary, sizes.width),
        )
        stream = gathered(table.astype(self.dtype), "table", None)[ids]
        stream = constrain(stream.astype(jnp.float32), "batch", None, None)
        blocks = nn.scan(
            Block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(nn.broadcast, nn.broadcast),
            length=sizes.layers,
            metadata_params={nn.PARTITION_NAME: "blocks"},
        )(sizes, self.dtype, name="blocks")
        stream, _ = blocks(stream, self._position_bias(ids.shape[1]), mask)
        return rms_norm(sizes, "float32", "norm")(stream)

    def _position_bias(self, tokens: int) -> Float[Array, "1 a n n"]:
        """Biases of the scores, by head and distance."""
        sizes = self.sizes
        bias = self.param(
            "position_bias",
            param_init(nn.initializers.normal(1.0), None, "heads"),
            (sizes.buckets, sizes.heads),
        )
        buckets = position_buckets(tokens, sizes.buckets, sizes.max_distance)
        bias = rearrange(bias[buckets], "q k a -> 1 a q k")
        return constrain(bias.astype(jnp.float32), None, "heads", None, None)


def rms_norm(sizes: T5Sizes, dtype: str, name: str) -> nn.RMSNorm:
    """T5's norm: by the root mean square over channels, with a scale."""
    return nn.RMSNorm(
        epsilon=sizes.epsilon,
        dtype=dtype,
        scale_init=param_init(nn.initializers.ones, "norm"),
        name=name,
    )
