"""Softmax attention, by the fastest kernel for the platform and the shapes.

`attend` chooses, `plain` is the reference. On TPU, splash attention (a Pallas kernel
that comes with JAX) never writes the scores to memory; it is faster where queries and
keys are many: here, where latents attend to each other. Everywhere else `lean` is used,
in XLA, whose gradient does not save the weights. `folded` is for groups of many patches
and few latents: it never computes queries, keys or values of patches.
"""

import functools
import math
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from jax.ad_checkpoint import checkpoint_name
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel,
    splash_attention_mask,
)
from jaxtyping import Array, Bool, Float

from snapvideo_jax.parallel.sharding import constrain, current_layout

ATTENTION = "attention"
"""checkpoint_name of what the gradient of attention needs in addition to queries, keys
and values: its output and normalizers."""
LANES = 128
"""Splash works on tiles of this many keys."""
BLOCKS = (512, 384, 256, 192, 128)
"""Tile sizes of splash; the first that divides is used."""
FUSED_BACKWARD = True
"""Whether one kernel computes all gradients, so that scores are recomputed once."""

_product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


def attend(
    queries: Float[Array, "*b q a v"],
    keys: Float[Array, "*b k a v"],
    values: Float[Array, "*b k a v"],
    mask: Bool[Array, "*b k"] | None = None,
) -> Float[Array, "*b q a v"]:
    """Softmax attention; ``mask`` is True where a key may be attended to."""
    if mask is None and _on_tpu():
        mesh, _ = current_layout()
        if suits_splash(queries.shape, keys.shape, mesh.shape):
            return _splash(queries, keys, values)
    return lean(queries, keys, values, mask)


def plain(
    queries: Float[Array, "*b q a v"],
    keys: Float[Array, "*b k a v"],
    values: Float[Array, "*b k a v"],
    mask: Bool[Array, "*b k"] | None = None,
) -> Float[Array, "*b q a v"]:
    """Attention by its definition; scores and their softmax are float32."""
    scores = jnp.einsum("...qav,...kav->...aqk", queries, keys)
    scores = scores.astype(jnp.float32) / math.sqrt(queries.shape[-1])
    if mask is not None:
        scores = jnp.where(mask[..., None, None, :], scores, -jnp.inf)
    weights = jax.nn.softmax(scores).astype(values.dtype)
    return jnp.einsum("...aqk,...kav->...qav", weights, values)


@jax.custom_vjp
def lean(
    queries: Float[Array, "*b q a v"],
    keys: Float[Array, "*b k a v"],
    values: Float[Array, "*b k a v"],
    mask: Bool[Array, "*b k"] | None = None,
) -> Float[Array, "*b q a v"]:
    """`plain`, whose gradient recomputes the attention weights.

    Where heads are narrow, writing and reading scores and weights takes longer than
    computing them. The gradient needs the output and one number for each query, which
    remat policies save under the name `ATTENTION`, and reads the weights twice.
    """
    return _lean_forward(queries, keys, values, mask)[0]


def _lean_forward(queries, keys, values, mask):
    scores = _scores(queries, keys, mask)
    largest = scores.max(axis=-1, keepdims=True)
    weights = jnp.exp(scores - largest)
    total = weights.sum(axis=-1, keepdims=True)
    summed = _product(
        "...qk,...kv->...qv", weights.astype(values.dtype), _heads_first(values)
    )
    out = checkpoint_name(_heads_first(summed / total).astype(values.dtype), ATTENTION)
    log_total = checkpoint_name(largest + jnp.log(total), ATTENTION)
    return out, (queries, keys, values, mask, out, log_total)


def _lean_backward(saved, gradient):
    """``d scores = weights (d weights - mean)``, the mean weighted by ``weights``."""
    queries, keys, values, mask, out, log_total = saved
    weights = jnp.exp(_scores(queries, keys, mask) - log_total)
    product = gradient.astype(jnp.float32) * out.astype(jnp.float32)
    mean = rearrange(product.sum(axis=-1), "... q a -> ... a q 1")
    q, k, v, to_out = map(_heads_first, (queries, keys, values, gradient))
    to_weights = _product("...qv,...kv->...qk", to_out, v)
    scale = 1 / math.sqrt(q.shape[-1])
    to_scores = (scale * weights * (to_weights - mean)).astype(q.dtype)
    gradients = (
        jnp.einsum("...qk,...kv->...qv", to_scores, k),
        jnp.einsum("...qk,...qv->...kv", to_scores, q),
        jnp.einsum("...qk,...qv->...kv", weights.astype(v.dtype), to_out),
    )
    return *map(_heads_first, gradients), None


lean.defvjp(_lean_forward, _lean_backward)


def _scores(queries, keys, mask) -> Float[Array, "*b a q k"]:
    """In float32; -inf where a key is masked."""
    scores = _product("...qv,...kv->...qk", _heads_first(queries), _heads_first(keys))
    scores = scores / math.sqrt(queries.shape[-1])
    if mask is None:
        return scores
    return jnp.where(mask[..., None, None, :], scores, -jnp.inf)


def _heads_first(tokens: Float[Array, "*b m a v"]) -> Float[Array, "*b a m v"]:
    """Swaps tokens and heads, in either direction.

    Matrix products are fastest in this order on CPUs; on TPUs it does not matter.
    """
    return rearrange(tokens, "... m a v -> ... a m v")


class Kernels(NamedTuple):
    """The projections of an attention, ``i (a v)`` three times and ``(a v) o``."""

    query: Float[Array, "d i"]
    key: Float[Array, "f i"]
    value: Float[Array, "f i"]
    out: Float[Array, "i o"]
    heads: int

    @property
    def head_width(self) -> int:
        return self.query.shape[1] // self.heads


def suits_folding(
    queries: tuple[int, ...], keys: tuple[int, ...], kernels: Kernels
) -> bool:
    """Whether `folded` costs less than projecting tokens of these shapes, ``b g q d``.

    A token of the longer side is then multiplied with ``a m`` folded vectors in place
    of the ``a v`` columns of two projections. That is less where the shorter side has
    fewer tokens than a head has channels, and pays off where the longer side has many
    tokens, as in the upsampler's groups of 24 latents and 4608 patches.
    """
    if len(queries) != 4:
        return False
    few, many = sorted((queries[2], keys[2]))
    return few < kernels.head_width and few * kernels.heads <= many


def folded(
    queries: Float[Array, "b g q d"], keys: Float[Array, "b g k f"], kernels: Kernels
) -> Float[Array, "b g q d"]:
    """Attention with its projections, those of the longer side folded into the shorter.

    ``(x W_q) (z W_k)^T = x (W_q W_k^T z^T)``: the right factor has a column for each
    head and token of the shorter side ``z``, and no query is ever computed; the same
    holds for keys, and for values and outputs. Vectors of one head are as wide as those
    of all, with zeros for the other heads: kernels stay whole in all products, so that
    their gradients can be reduce-scattered.
    """
    scale = 1 / math.sqrt(kernels.head_width)
    own = jnp.repeat(jnp.eye(kernels.heads, dtype=queries.dtype), kernels.head_width, 1)

    def placed(made):
        return constrain(made, "batch", "groups", "heads", None, None)

    def of_heads(tokens, kernel):
        made = jnp.einsum("bgmd,di->bgmi", tokens, kernel)
        made = constrain(made, "batch", "groups", None, "heads")
        return placed(jnp.einsum("bgmi,ai->bgami", made, own))

    if keys.shape[2] <= queries.shape[2]:  # a write: many queries, few keys
        asked = of_heads(scale * keys, kernels.key)
        asked = placed(jnp.einsum("bgami,di->bgamd", asked, kernels.query))
        scores = jnp.einsum("bgamd,bgpd->bgamp", asked, queries)
        given = of_heads(keys, kernels.value)
        given = placed(jnp.einsum("bgami,io->bgamo", given, kernels.out))
        return jnp.einsum("bgamp,bgamo->bgpo", _softmax(scores, axis=3), given)
    asked = of_heads(scale * queries, kernels.query)
    asked = placed(jnp.einsum("bgami,fi->bgamf", asked, kernels.key))
    scores = jnp.einsum("bgamf,bgpf->bgamp", asked, keys)
    seen = placed(jnp.einsum("bgamp,bgpf->bgamf", _softmax(scores, axis=4), keys))
    seen = placed(jnp.einsum("bgamf,fi->bgami", seen, kernels.value))
    seen = jnp.einsum("bgami,ai->bgmi", seen, own)
    return jnp.einsum("bgmi,io->bgmo", seen, kernels.out)


def _softmax(scores: Float[Array, "*s"], axis: int) -> Float[Array, "*s"]:
    """Softmax in float32, returned in the type of the scores."""
    return jax.nn.softmax(scores.astype(jnp.float32), axis=axis).astype(scores.dtype)


@jax.checkpoint
def with_text(
    queries: Float[Array, "b g q a v"],
    keys: Float[Array, "b g k a v"],
    values: Float[Array, "b g k a v"],
    text_keys: Float[Array, "b n a v"],
    text_values: Float[Array, "b n a v"],
    text_mask: Bool[Array, "b n"],
    bias: Float[Array, "a q k"] | None = None,
) -> Float[Array, "b g q a v"]:
    """Attention of a group to itself and to its clip's text, under one softmax.

    The text's keys are not copied for the groups, which may be 640 positions of a clip.
    The gradient recomputes the scores.

    Args:
      queries, keys, values: by group: a frame, or a position in all frames.
      text_keys, text_values: of the whole clip.
      text_mask: True where a token of the text may be attended to.
      bias: added to the scores of the groups' own keys.
    """
    scale = 1 / math.sqrt(queries.shape[-1])
    own = scale * _product("bgqav,bgkav->bgaqk", queries, keys)
    if bias is not None:
        own = own + rearrange(bias, "a q k -> 1 1 a q k")
    text = scale * _product("bgqav,bnav->bgaqn", queries, text_keys)
    text = jnp.where(text_mask[:, None, None, None, :], text, -jnp.inf)
    largest = jax.lax.stop_gradient(
        jnp.maximum(own.max(-1, keepdims=True), text.max(-1, keepdims=True))
    )
    own, text = jnp.exp(own - largest), jnp.exp(text - largest)
    total = own.sum(-1) + text.sum(-1)
    summed = _product("bgaqk,bgkav->bgqav", own.astype(values.dtype), values)
    summed += _product("bgaqn,bnav->bgqav", text.astype(values.dtype), text_values)
    out = summed / rearrange(total, "b g a q -> b g q a 1")
    return out.astype(values.dtype)


def _on_tpu() -> bool:
    """Whether the function being traced will run on TPUs."""
    found = current_layout()
    return found is not None and found[0].devices.flat[0].platform == "tpu"


def suits_splash(
    queries: tuple[int, ...], keys: tuple[int, ...], parts: Mapping[str, int]
) -> bool:
    """Whether splash can tile arrays of these shapes, ``b q a v`` and ``b k a v``.

    Args:
      queries, keys: shapes.
      parts: sizes of the mesh axes; tensor divides heads, context divides queries.
    """
    if len(queries) != 4:
        return False
    _, q, heads, width = queries
    whole = heads % parts["tensor"] == 0 and q % parts["context"] == 0
    tiled = width % 64 == 0 and keys[1] % LANES == 0
    return whole and tiled and _block(q // parts["context"]) > 0


def _block(size: int) -> int:
    return next((block for block in BLOCKS if size % block == 0), 0)


def _splash(queries, keys, values):
    """Splash attention on every device's own samples, heads and queries."""
    mesh, rules = current_layout()
    q_spec = rules.spec(("batch", "latents", "heads", None))
    k_spec = rules.spec(("batch", None, "heads", None))

    @functools.partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(q_spec, k_spec, k_spec),
        out_specs=q_spec,
        check_vma=False,
    )
    def kernel(queries, keys, values):
        run = splash_kernel(queries.shape[1], keys.shape[1], queries.shape[2])
        heads_first = functools.partial(jnp.moveaxis, source=2, destination=1)
        queries = queries / math.sqrt(queries.shape[-1])
        out = jax.vmap(run)(*map(heads_first, (queries, keys, values)))
        return jnp.moveaxis(out, 1, 2)

    return kernel(queries, keys, values)


def splash_kernel(q: int, k: int, heads: int, interpret: bool = False):
    """Splash attention of one sample: (queries, keys, values), ``a q v`` each."""
    mask = splash_attention_mask.MultiHeadMask(
        [splash_attention_mask.FullMask((q, k))] * heads
    )
    block_q = _block(q)
    block_k = next(block for block in BLOCKS if k % block == 0 and block % LANES == 0)
    sizes = splash_attention_kernel.BlockSizes(
        block_q=block_q,
        block_kv=block_k,
        block_kv_compute=block_k,
        block_q_dkv=block_q,
        block_kv_dkv=block_k,
        block_kv_dkv_compute=block_k,
        use_fused_bwd_kernel=FUSED_BACKWARD,
    )
    return splash_attention_kernel.make_splash_mha(
        mask=mask,
        head_shards=1,
        q_seq_shards=1,
        block_sizes=sizes,
        residual_checkpoint_name=ATTENTION,
        interpret=interpret,
    )
