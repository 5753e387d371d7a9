"""Layers of the networks: projections, attention, feed-forward, patches and groups.

[C], fixed by the parameter counts of Tab. 8: LayerNorm has a scale and no bias,
attention projections have no bias, a feed-forward is ``D -> 4D -> D`` with GELU and
biases. Parameters are float32 and declare their logical axes; ``dtype`` is that of the
computation. Softmax and LayerNorm statistics are always float32.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from flax.typing import Initializer
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Key

from snapvideo_jax.models.attention import Kernels, attend, folded, suits_folding
from snapvideo_jax.models.remat import PRODUCT
from snapvideo_jax.parallel.sharding import constrain, gathered

KERNEL_INIT = nn.initializers.lecun_normal()


def param_init(init, *axes: str | None):
    """``init`` of a parameter with logical ``axes``, for sharding."""
    return nn.with_logical_partitioning(init, axes)


def product(
    tokens: Float[Array, "*b i"], kernel: Float[Array, "i o"]
) -> Float[Array, "*b o"]:
    """``tokens @ kernel``; the backward pass transposes the smaller operand.

    XLA on CPUs materializes the transposed operand and recomputes what it depends on,
    such as GELU and dropout; by default it transposes the gradient of the output. Remat
    policies cannot see inside a custom_vjp, so the output has a checkpoint_name.
    """
    return checkpoint_name(_product(tokens, kernel), PRODUCT)


@jax.custom_vjp
def _product(tokens, kernel):
    return jnp.einsum("...i,io->...o", tokens, kernel)


def _product_forward(tokens, kernel):
    return _product(tokens, kernel), (tokens, kernel)


def _product_backward(saved, gradient):
    tokens, kernel = saved
    to_tokens = jnp.einsum("...o,io->...i", gradient, kernel)
    if kernel.shape[0] <= kernel.shape[1]:
        return to_tokens, jnp.einsum("...i,...o->io", tokens, gradient)
    return to_tokens, jnp.einsum("...o,...i->oi", gradient, tokens).T


_product.defvjp(_product_forward, _product_backward)


class Dense(nn.Module):
    """A linear layer whose kernel has the logical ``axes`` (input, output).

    The kernel is cast before it is gathered, which halves the communication.
    """

    features: int
    axes: tuple[str, str]
    dtype: str
    init: Initializer = KERNEL_INIT
    bias_init: Initializer = nn.initializers.zeros

    @nn.compact
    def __call__(self, tokens: Float[Array, "*b i"]) -> Float[Array, "*b o"]:
        kernel = _kernel(self, tokens.shape[-1])
        out = product(tokens.astype(self.dtype), kernel)
        init = param_init(self.bias_init, self.axes[-1])
        bias = self.param("bias", init, (self.features,)).astype(self.dtype)
        return out + jnp.expand_dims(bias, range(out.ndim - 1))


class Kernel(nn.Module):
    """The kernel of a linear layer without a bias; the caller computes the product."""

    features: int
    axes: tuple[str, str]
    dtype: str
    init: Initializer = KERNEL_INIT

    @nn.compact
    def __call__(self, width: int) -> Float[Array, "i o"]:
        return _kernel(self, width)


def _kernel(module: Dense | Kernel, width: int) -> Float[Array, "i o"]:
    """A module's kernel for tokens of ``width`` channels, gathered along fsdp."""
    shape = (width, module.features)
    kernel = module.param("kernel", param_init(module.init, *module.axes), shape)
    return gathered(kernel.astype(module.dtype), *module.axes)


def layer_norm(name: str, *, dtype, init=nn.initializers.ones):
    """LayerNorm with a scale and no bias [C]."""
    return nn.LayerNorm(
        use_bias=False, dtype=dtype, scale_init=param_init(init, "norm"), name=name
    )


def drop(
    values: Float[Array, "*b d"], rate: float, key: Key[Array, ""]
) -> Float[Array, "*b d"]:
    """Dropout: zeroes a share ``rate`` of the values and scales up the rest.

    Every random word serves two values, which halves the cost of drawing them, a good
    part of a training step on TPU. The share is ``rate`` to 1 in 65,536.
    """
    width = values.shape[-1]
    words = jax.random.bits(key, (*values.shape[:-1], -(-width // 2)), jnp.uint32)
    least = round(rate * 2**16)
    # Compared before they are concatenated: one byte a value in memory, not four.
    keep = jnp.concatenate([(words & 0xFFFF) >= least, words >> 16 >= least], axis=-1)
    return jnp.where(keep[..., :width], values / (1 - rate), 0).astype(values.dtype)


def token_axes(
    tokens: Float[Array, "*b q d"], whole: bool = False
) -> tuple[str | None, ...]:
    """Logical axes of tokens without their channels: ``b q`` or ``b g q``.

    Args:
      tokens: sharded by groups if they have groups, else along the tokens.
      whole: not sharded along the tokens, for keys that all queries attend to.
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
      dtype: of the computation.
      query_init: initializer of the queries' kernel; by default it starts at zero, so
        attention starts as a plain mean over its keys [C].
      out_init: initializer of the output's kernel.
    """

    width: int
    heads: int
    dtype: str
    query_init: Initializer = nn.initializers.zeros
    out_init: Initializer = KERNEL_INIT

    @nn.compact
    def __call__(
        self,
        queries: Float[Array, "*b q d"],
        keys: Float[Array, "*b k f"],
        mask: Bool[Array, "*b k"] | None = None,
    ) -> Float[Array, "*b q d"]:
        """``mask`` is True where a key may be attended to."""

        def kernel(name, tokens, init=KERNEL_INIT):
            axes = ("embed", "heads")
            layer = Kernel(self.width, axes, self.dtype, init, name=name)
            return layer(tokens.shape[-1])

        query = kernel("query", queries, self.query_init)
        key, value = kernel("key", keys), kernel("value", keys)
        axes = ("from_heads", "to_embed")
        out = Kernel(queries.shape[-1], axes, self.dtype, self.out_init, name="out")(
            self.width
        )
        kernels = Kernels(query, key, value, out, heads=self.heads)
        if mask is None and suits_folding(queries.shape, keys.shape, kernels):
            return folded(queries, keys, kernels)

        def project(tokens, kernel, places):
            out = product(tokens, kernel)
            out = rearrange(out, "... q (a v) -> ... q a v", a=self.heads)
            return constrain(out, *places, "heads", None)

        seen = attend(
            project(queries, query, token_axes(queries)),
            project(keys, key, token_axes(keys, whole=True)),
            project(keys, value, token_axes(keys, whole=True)),
            mask,
        )
        seen = rearrange(seen, "... q a v -> ... q (a v)")
        return product(seen, out)


def pad_rows(
    clip: Float[Array, "b t h w c"], rows: tuple[int, int]
) -> Float[Array, "b t H w c"]:
    """The clip with so many rows of zeros above and below."""
    return jnp.pad(clip, ((0, 0), (0, 0), rows, (0, 0), (0, 0)))


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

    The range suits all numbers that are embedded here: ``c_noise`` (-1.6 to 1.1),
    seconds between frames (0 to 1), and the logarithm of a size in pixels (3 to 8).
    """
    ratio = jnp.linspace(0.0, 1.0, width // 2)
    period = min_period * (max_period / min_period) ** ratio
    angle = jnp.einsum("...,f->...f", value, 2 * jnp.pi / period)
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


def grid_waves(sizes: tuple[int, int, int], width: int) -> Float[Array, "t h w f"]:
    """Sines and cosines of frame, row and column, a third of ``width`` each [C].

    Args:
      sizes: of the grid of patches, in time, height and width.
      width: of the vectors.
    """
    axes = jnp.meshgrid(*(jnp.arange(size) / size for size in sizes), indexing="ij")
    third = -(-width // 6) * 2
    waves = [sinusoid(axis, third, 0.1, 4.0) for axis in axes]
    return jnp.concatenate(waves, axis=-1)[..., :width]
