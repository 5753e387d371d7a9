"""The parts FIT is made of: projections, attention, feed-forward, patches and groups.

[C], fixed by the parameter counts of Tab. 8: LayerNorm has a scale and no bias,
attention projections have no bias, a feed-forward is ``D -> 4D -> D`` with GELU and
biases. Parameters are float32 and declare their logical axes; ``dtype`` is what is
computed in. Softmax and LayerNorm statistics are float32 always.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float

KERNEL_INIT = nn.initializers.lecun_normal()


def param_init(init, *axes: str):
    """``init`` whose parameter carries the logical ``axes`` that sharding maps."""
    return nn.with_logical_partitioning(init, axes)


def dense(
    features: int,
    axes: tuple[str, str],
    name: str,
    *,
    dtype,
    bias=True,
    init=KERNEL_INIT,
):
    """A linear layer whose kernel has the logical ``axes`` (input, output)."""
    return nn.Dense(
        features,
        use_bias=bias,
        dtype=dtype,
        kernel_init=param_init(init, *axes),
        bias_init=param_init(nn.initializers.zeros, axes[-1]),
        name=name,
    )


def layer_norm(name: str, *, dtype, init=nn.initializers.ones):
    """LayerNorm with a scale and no bias [C]."""
    return nn.LayerNorm(
        use_bias=False, dtype=dtype, scale_init=param_init(init, "norm"), name=name
    )


class FeedForward(nn.Module):
    """``D -> 4D -> D`` with GELU; dropout on the hidden units."""

    dropout: float
    dtype: str

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "*b q d"], train: bool = False
    ) -> Float[Array, "*b q d"]:
        width = tokens.shape[-1]
        hidden = dense(4 * width, ("embed", "mlp"), "hidden", dtype=self.dtype)(tokens)
        hidden = nn.gelu(hidden)
        if self.dropout:
            hidden = nn.Dropout(self.dropout)(hidden, deterministic=not train)
        return dense(width, ("mlp", "embed"), "out", dtype=self.dtype)(hidden)


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

        def project(tokens, name, init=KERNEL_INIT):
            axes = ("embed", "heads")
            layer = dense(
                self.width, axes, name, dtype=self.dtype, bias=False, init=init
            )
            return rearrange(layer(tokens), "... q (a v) -> ... q a v", a=self.heads)

        # Queries start at zero, so attention starts as a plain mean over its keys [C].
        out = attend(
            project(queries, "query", nn.initializers.zeros),
            project(keys, "key"),
            project(keys, "value"),
            mask,
        )
        out = rearrange(out, "... q a v -> ... q (a v)")
        axes = ("heads", "embed")
        layer = dense(queries.shape[-1], axes, "out", dtype=self.dtype, bias=False)
        return layer(out)


def attend(
    queries: Float[Array, "*b q a v"],
    keys: Float[Array, "*b k a v"],
    values: Float[Array, "*b k a v"],
    mask: Bool[Array, "*b k"] | None = None,
) -> Float[Array, "*b q a v"]:
    """Softmax attention; ``mask`` is True where a key may be attended to."""
    scores = jnp.einsum("...qav,...kav->...aqk", queries, keys)
    scores = scores.astype(jnp.float32) / math.sqrt(queries.shape[-1])
    if mask is not None:
        scores = jnp.where(mask[..., None, None, :], scores, -jnp.inf)
    weights = jax.nn.softmax(scores).astype(values.dtype)
    return jnp.einsum("...aqk,...kav->...qav", weights, values)


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
