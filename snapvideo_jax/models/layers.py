"""The parts FIT is made of: projections, attention, feed-forward, patches and groups.

[C], fixed by the parameter counts of Tab. 8: LayerNorm has a scale and no bias,
attention projections have no bias, a feed-forward is ``D -> 4D -> D`` with GELU and
biases. Parameters are float32 and declare their logical axes; ``dtype`` is what is
computed in. Softmax and LayerNorm statistics are float32 always.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from flax.typing import Initializer
from jaxtyping import Array, Bool, Float, Key

from snapvideo_jax.models.attention import attend
from snapvideo_jax.sharding import constrain, gathered

KERNEL_INIT = nn.initializers.lecun_normal()


def param_init(init, *axes: str | None):
    """``init`` whose parameter carries the logical ``axes`` that sharding maps."""
    return nn.with_logical_partitioning(init, axes)


class Dense(nn.Module):
    """A linear layer whose kernel has the logical ``axes`` (input, output).

    The kernel is cast first and gathered then: half the bytes travel.
    """

    features: int
    axes: tuple[str, str]
    dtype: str
    bias: bool = True
    init: Initializer = KERNEL_INIT

    @nn.compact
    def __call__(self, tokens: Float[Array, "*b i"]) -> Float[Array, "*b o"]:
        shape = (tokens.shape[-1], self.features)
        kernel = self.param("kernel", param_init(self.init, *self.axes), shape)
        kernel = gathered(kernel.astype(self.dtype), *self.axes)
        out = jnp.einsum("...i,io->...o", tokens.astype(self.dtype), kernel)
        if not self.bias:
            return out
        init = param_init(nn.initializers.zeros, self.axes[-1])
        bias = self.param("bias", init, (self.features,)).astype(self.dtype)
        return out + jnp.expand_dims(bias, range(out.ndim - 1))


def layer_norm(name: str, *, dtype, init=nn.initializers.ones):
    """LayerNorm with a scale and no bias [C]."""
    return nn.LayerNorm(
        use_bias=False, dtype=dtype, scale_init=param_init(init, "norm"), name=name
    )


def drop(
    values: Float[Array, "*b d"], rate: float, key: Key[Array, ""]
) -> Float[Array, "*b d"]:
    """Dropout: zeroes a share ``rate`` of the values and scales up the rest.

    Every random word decides about two values, so that drawing them, which is a good
    part of a training step on TPU, costs half. The share is ``rate`` to 1 in 65,536.
    """
    width = values.shape[-1]
    words = jax.random.bits(key, (*values.shape[:-1], -(-width // 2)), jnp.uint32)
    least = round(rate * 2**16)
    # Compared first and joined then: a byte for each value goes to memory, not four.
    keep = jnp.concatenate([(words & 0xFFFF) >= least, words >> 16 >= least], axis=-1)
    return jnp.where(keep[..., :width], values / (1 - rate), 0).astype(values.dtype)


def token_axes(
    tokens: Float[Array, "*b q d"], whole: bool = False
) -> tuple[str | None, ...]:
    """Logical axes of tokens but for their channels: ``b q`` or ``b g q``.

    Args:
      tokens: grouped ones are divided by groups, others among themselves.
      whole: not among themselves, as keys that everyone attends to.
    """
    if tokens.ndim == 4:
        return "batch", "groups", None
    return "batch", None if whole else "latents"


class FeedForward(nn.Module):
    """``D -> 4D -> D`` with GELU; dropout on the hidden units."""

    dropout: float
    dtype: str

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "*b q d"], train: bool = False
    ) -> Float[Array, "*b q d"]:
        width = tokens.shape[-1]
        inner, outer = ("embed", "mlp"), ("from_mlp", "to_embed")
        hidden = Dense(4 * width, inner, self.dtype, name="hidden")(tokens)
        hidden = nn.gelu(constrain(hidden, *token_axes(tokens), "mlp"))
        if self.dropout and train:
            hidden = drop(hidden, self.dropout, self.make_rng("dropout"))
        return Dense(width, outer, self.dtype, name="out")(hidden)


class Attention(nn.Module):
    """Multi-head attention of ``queries`` to ``keys``.

    Attributes:
      width: inner width, split evenly over the heads. [C] The smaller of the two
        sides' widths for cross attention.
      heads: number of heads.
      dtype: what is computed in.
    """

    width: int
    heads: int
    dtype: str

    @nn.compact
    def __call__(
        self,
        queries: Float[Array, "*b q d"],
        keys: Float[Array, "*b k f"],
        mask: Bool[Array, "*b k"] | None = None,
    ) -> Float[Array, "*b q d"]:
        """``mask`` is True where a key may be attended to."""

        def project(tokens, name, places, init=KERNEL_INIT):
            axes = ("embed", "heads")
            layer = Dense(self.width, axes, self.dtype, False, init, name=name)
            heads = rearrange(layer(tokens), "... q (a v) -> ... q a v", a=self.heads)
            return constrain(heads, *places, "heads", None)

        # Queries start at zero, so attention starts as a plain mean over its keys [C].
        out = attend(
            project(queries, "query", token_axes(queries), nn.initializers.zeros),
            project(keys, "key", token_axes(keys, whole=True)),
            project(keys, "value", token_axes(keys, whole=True)),
            mask,
        )
        out = rearrange(out, "... q a v -> ... q (a v)")
        axes = ("from_heads", "to_embed")
        return Dense(queries.shape[-1], axes, self.dtype, False, name="out")(out)


def patchify(
    video: Float[Array, "b t h w c"],
    patch: tuple[int, int, int],
    group: tuple[int, int],
) -> Float[Array, "b g p d"]:
    """Patch vectors, stored group by group.

    Args:
      video: frames whose sizes are multiples of ``patch`` and ``group``.
      patch: pixels of a patch in time, height and width.
      group: patches of a group in height and width; it spans all frames.
    """
    return rearrange(
        video,
        "b (T pt) (H gh ph) (W gw pw) c -> b (H W) (T gh gw) (pt ph pw c)",
        **_sizes(patch, group),
    )


def unpatchify(
    patches: Float[Array, "b g p d"],
    patch: tuple[int, int, int],
    group: tuple[int, int],
    frames: int,
    height: int,
) -> Float[Array, "b t h w c"]:
    """The inverse of `patchify`, to ``frames`` frames of ``height`` rows."""
    return rearrange(
        patches,
        "b (H W) (T gh gw) (pt ph pw c) -> b (T pt) (H gh ph) (W gw pw) c",
        T=frames // patch[0],
        H=height // (group[0] * patch[1]),
        **_sizes(patch, group),
    )


def _sizes(patch, group):
    return dict(pt=patch[0], ph=patch[1], pw=patch[2], gh=group[0], gw=group[1])


def sinusoid(
    value: Float[Array, "*b"],
    width: int,
    min_period: float = 0.05,
    max_period: float = 20.0,
) -> Float[Array, "*b f"]:
    """Sines and cosines of ``value`` at geometrically spaced periods [C].

    The range suits everything a token is made of here: ``c_noise`` (-1.6 to 1.1),
    seconds between frames (0 to 1), and the logarithm of a size in pixels (3 to 8).
    """
    ratio = jnp.linspace(0.0, 1.0, width // 2)
    period = min_period * (max_period / min_period) ** ratio
    angle = jnp.einsum("...,f->...f", value, 2 * jnp.pi / period)
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)
