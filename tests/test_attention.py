"""The kernels of attention: all equal to its definition, each where it can run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from snapvideo_jax.models import attention
from snapvideo_jax.parallel.sharding import AXES, layout


def arrays(b=2, q=128, k=256, heads=2, width=128, seed=0):
    """Queries, keys and values, and a gradient of what comes out."""
    keys = jax.random.split(jax.random.key(seed), 4)
    shapes = [(b, q, heads, width), *[(b, k, heads, width)] * 2, (b, q, heads, width)]
    return [jax.random.normal(key, s) for key, s in zip(keys, shapes, strict=True)]


def by_numpy(queries, keys, values):
    """Softmax attention in float64, one head of one sample after the other."""
    queries, keys, values = (np.float64(x) for x in (queries, keys, values))
    out = np.empty_like(queries)
    for b, a in np.ndindex(queries.shape[0], queries.shape[2]):
        scores = queries[b, :, a] @ keys[b, :, a].T / np.sqrt(queries.shape[-1])
        weights = np.exp(scores - scores.max(1, keepdims=True))
        out[b, :, a] = weights / weights.sum(1, keepdims=True) @ values[b, :, a]
    return out


def test_plain_attention_is_its_definition():
    *inputs, _ = arrays()
    np.testing.assert_allclose(
        attention.plain(*inputs), by_numpy(*inputs), rtol=1e-4, atol=1e-5
    )


def test_a_masked_key_cannot_matter():
    queries, keys, values, _ = arrays(k=8, width=4)
    mask = jnp.arange(8)[None] < jnp.array([[3], [8]])
    out = attention.plain(queries, keys, values, mask)
    short = attention.plain(queries[:1], keys[:1, :3], values[:1, :3])
    np.testing.assert_allclose(out[:1], short, rtol=1e-5, atol=1e-6)


def test_splash_attention_and_its_gradients_equal_the_plain_one():
    q, width = 128, 64
    queries, keys, values, gradient = arrays(b=1, q=q, heads=1, width=width)
    run = attention.splash_kernel(q, keys.shape[1], queries.shape[2], interpret=True)

    def splash(queries, keys, values):
        heads_first = (jnp.moveaxis(x[0], 1, 0) for x in (queries, keys, values))
        scaled, keys, values = heads_first
        return jnp.moveaxis(run(scaled / width**0.5, keys, values), 0, 1)[None]

    ours, pull = jax.vjp(splash, queries, keys, values)
    wanted, pull_plain = jax.vjp(attention.plain, queries, keys, values)
    np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-5)
    for one, other in zip(pull(gradient), pull_plain(gradient), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


def test_splash_is_for_sizes_it_can_tile():
    def suits(q=512, k=512, heads=2, width=128, **parts):
        parts = dict.fromkeys(AXES, 1) | parts
        return attention.suits_splash((3, q, heads, width), (3, k, heads, width), parts)

    assert suits() and suits(q=768, k=768) and suits(width=64)
    assert suits(q=768, k=768, context=4) and suits(tensor=2)
    assert not suits(k=24)
    assert not suits(width=48)
    assert not suits(q=100)
    assert not suits(tensor=4)
    assert not attention.suits_splash((3, 8, 64, 2, 128), (3, 8, 64, 2, 128), {})


def test_on_a_cpu_attention_is_no_kernel():
    *inputs, _ = arrays(q=512, k=512)
    mesh = Mesh(np.array(jax.devices()[:1]).reshape((1,) * 5), AXES)
    with layout(mesh):
        program = jax.make_jaxpr(attention.attend)(*inputs)
    assert "pallas" not in str(program)


# --- Recomputed weights --------------------------------------------------------------


@pytest.mark.parametrize("groups", [(), (3,)])
@pytest.mark.parametrize("masked", [False, True])
def test_the_lean_one_and_its_gradients_equal_the_plain_one(groups, masked):
    *inputs, gradient = arrays(b=2 * 3, q=20, k=9, width=8)
    if groups:
        split = lambda x: x.reshape(2, 3, *x.shape[1:])  # noqa: E731
        *inputs, gradient = map(split, (*inputs, gradient))
    lengths = np.array([9, 1, 5, 3, 8, 2]).reshape(gradient.shape[:-3])
    mask = jnp.asarray(np.arange(9) < lengths[..., None]) if masked else None
    ours, pull = jax.vjp(lambda *x: attention.lean(*x, mask), *inputs)
    wanted, pull_plain = jax.vjp(lambda *x: attention.plain(*x, mask), *inputs)
    np.testing.assert_allclose(ours, wanted, rtol=1e-5, atol=1e-6)
    for one, other in zip(pull(gradient), pull_plain(gradient), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_the_lean_one_in_bfloat16_is_as_exact_as_the_plain_one():
    exact = arrays(q=64, k=96, width=64)
    rounded = [x.astype(jnp.bfloat16) for x in exact]

    def error(attend):
        out, pull = jax.vjp(attend, *rounded[:3])
        wanted, pull_wanted = jax.vjp(attention.plain, *exact[:3])
        ours, theirs = (out, *pull(rounded[3])), (wanted, *pull_wanted(exact[3]))
        pairs = zip(ours, theirs, strict=True)
        return np.array([float(jnp.square(a - b).mean()) for a, b in pairs])

    assert (error(attention.lean) < 1.1 * error(attention.plain)).all()


def test_the_lean_one_keeps_no_weights_for_its_gradient():
    *inputs, _ = arrays(b=1, q=40, k=30, width=8)
    weights = 2 * 40 * 30
    saved = [
        max(leaf.size for leaf in jax.tree.leaves(jax.vjp(attend, *inputs)[1]))
        for attend in (attention.plain, attention.lean)
    ]
    assert saved[0] == weights > saved[1]


def test_a_policy_that_saves_attention_does_not_recompute_it():
    *inputs, _ = arrays(b=1, q=40, k=30, width=8)

    def exponentials(policy):
        attend = jax.checkpoint(attention.lean, policy=policy)
        program = jax.make_jaxpr(jax.grad(lambda *x: attend(*x).sum()))(*inputs)
        return str(program).count("= exp ")

    saved = jax.checkpoint_policies.save_only_these_names(attention.ATTENTION)
    assert (exponentials(saved), exponentials(None)) == (2, 3)


# --- Folded projections --------------------------------------------------------------


def few_and_many(few, many, heads=2, width=4, d=6, f=10):
    """Tokens of 3 groups of 2 samples, and kernels for them."""
    rng = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    inner = heads * width
    kernels = attention.Kernels(
        normal(d, inner), normal(f, inner), normal(f, inner), normal(inner, d), heads
    )
    return normal(2, 3, few, d), normal(2, 3, many, f), kernels


@pytest.mark.parametrize("queries, keys", [(2, 9), (9, 2), (3, 6)])
def test_folded_projections_are_those_of_the_definition(queries, keys):
    queries, keys, kernels = few_and_many(queries, keys)
    assert attention.suits_folding(queries.shape, keys.shape, kernels)

    def heads(tokens, kernel):
        out = jnp.einsum("bgqd,di->bgqi", tokens, kernel)
        return out.reshape(6, -1, kernels.heads, kernels.head_width)

    made = (
        heads(queries, kernels.query),
        heads(keys, kernels.key),
        heads(keys, kernels.value),
    )
    seen = by_numpy(*made).reshape(*queries.shape[:3], -1)
    expected = seen @ np.float64(kernels.out)
    got = attention.folded(queries, keys, kernels)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-3)


def test_only_groups_of_few_and_many_tokens_are_folded():
    *_, kernels = few_and_many(2, 9)  # two heads of four channels
    assert attention.suits_folding((2, 3, 3, 6), (2, 3, 9, 10), kernels)
    assert not attention.suits_folding((2, 3, 4, 6), (2, 3, 9, 10), kernels)
    assert not attention.suits_folding((2, 3, 3, 6), (2, 3, 5, 10), kernels)
    assert not attention.suits_folding((2, 3, 6), (2, 9, 10), kernels)
