"""The parts of FIT against literal pictures and references in float64 NumPy."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange

from snapvideo_jax.models import layers
from snapvideo_jax.models.remat import REMAT


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def apply(module, *inputs, **keywords):
    """A module's output, and its parameters, all random."""
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *inputs, **keywords))
    leaves, tree = jax.tree.flatten(shapes)
    random = [jnp.asarray(normal(i, *leaf.shape)) for i, leaf in enumerate(leaves)]
    variables = jax.tree.unflatten(tree, random)
    return module.apply(variables, *inputs, **keywords), variables["params"]


def kernel(params, name):
    return np.asarray(params[name]["kernel"].value, np.float64)


def reference_attention(queries, keys, values, mask):
    """One head's scores and sums at a time; a masked key is left out."""
    out = np.zeros(queries.shape)
    for batch, query, head in np.ndindex(queries.shape[:3]):
        seen = np.flatnonzero(mask[batch])
        scores = keys[batch, seen, head] @ queries[batch, query, head]
        weights = np.exp(scores / np.sqrt(queries.shape[-1]))
        out[batch, query, head] = weights / weights.sum() @ values[batch, seen, head]
    return out


# Patches and groups.


@pytest.mark.parametrize(
    "size, patch, group",
    [
        ((1, 4, 4, 1), (1, 4, 4), (1, 1)),
        ((3, 8, 12, 3), (1, 2, 2), (2, 3)),
        ((4, 8, 8, 2), (2, 2, 4), (4, 1)),
        ((16, 40, 64, 3), (1, 4, 4), (5, 4)),
        ((2, 16, 24, 6), (1, 2, 4), (1, 3)),
    ],
)
def test_unpatchify_inverts_patchify(size, patch, group):
    video = jnp.asarray(normal(0, 2, *size))
    patches = layers.patchify(video, patch, group)
    frames, height, width, colours = size
    cells = frames // patch[0] * height // patch[1] * width // patch[2]
    per_group = frames // patch[0] * group[0] * group[1]
    vector = patch[0] * patch[1] * patch[2] * colours
    assert patches.shape == (2, cells // per_group, per_group, vector)
    back = layers.unpatchify(patches, patch, group, frames, height)
    assert jnp.array_equal(back, video)


def test_a_group_is_a_contiguous_block_of_patches_in_all_frames():
    # Patches of one pixel, groups of 2 rows by 3 columns; the number of its group in
    # every pixel of both frames.
    picture = [
        [0, 0, 0, 1, 1, 1],
        [0, 0, 0, 1, 1, 1],
        [2, 2, 2, 3, 3, 3],
        [2, 2, 2, 3, 3, 3],
    ]
    video = jnp.array([picture, picture], float)[None, ..., None]
    groups = layers.patchify(video, (1, 1, 1), (2, 3))
    assert groups.shape == (1, 4, 2 * 6, 1)
    for number in range(4):
        assert (groups[:, number] == number).all()


def test_patches_of_a_group_are_ordered_by_frame_row_and_column():
    # The place of each pixel's patch in its group, patches being 1 x 2 px.
    frames = [
        [[0, 0, 1, 1, 0, 0, 1, 1], [2, 2, 3, 3, 2, 2, 3, 3]],
        [[4, 4, 5, 5, 4, 4, 5, 5], [6, 6, 7, 7, 6, 6, 7, 7]],
    ]
    video = jnp.array(frames, float)[None, ..., None]
    groups = layers.patchify(video, (1, 1, 2), (2, 2))
    assert groups.shape == (1, 2, 8, 2)
    assert (groups == jnp.arange(8.0)[None, None, :, None]).all()


def test_a_patch_vector_holds_rows_then_columns_then_colours():
    video = jnp.arange(2 * 2 * 3.0).reshape(1, 1, 2, 2, 3)
    (patch,) = layers.patchify(video, (1, 2, 2), (1, 1))[0, 0]
    assert patch.tolist() == list(range(12))


# Attention.


@pytest.mark.parametrize("masked", [False, True])
def test_attend_is_softmax_attention(masked):
    queries, keys = normal(0, 2, 4, 3, 5), normal(1, 2, 6, 3, 5)
    values = normal(2, 2, 6, 3, 5)
    mask = np.ones((2, 6), bool)
    if masked:
        mask = np.array([[1, 0, 1, 1, 0, 0], [0, 0, 0, 0, 1, 0]], bool)
    inputs = [jnp.asarray(array, jnp.float32) for array in (queries, keys, values)]
    got = layers.attend(*inputs, jnp.asarray(mask) if masked else None)
    expected = reference_attention(queries, keys, values, mask)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("masked", [False, True])
def test_attention_projects_attends_and_projects_back(masked):
    queries, keys = normal(0, 2, 4, 6), normal(1, 2, 5, 10)
    mask = np.ones((2, 5), bool)
    if masked:
        mask[0, 2:] = mask[1, 0] = False
    module = layers.Attention(width=8, heads=2, dtype="float32")
    inputs = (jnp.asarray(queries, jnp.float32), jnp.asarray(keys, jnp.float32))
    got, params = apply(module, *inputs, jnp.asarray(mask) if masked else None)

    def heads(tokens, name):
        return rearrange(tokens @ kernel(params, name), "b q (a v) -> b q a v", a=2)

    out = reference_attention(
        heads(queries, "query"), heads(keys, "key"), heads(keys, "value"), mask
    )
    expected = rearrange(out, "b q a v -> b q (a v)") @ kernel(params, "out")
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4)
    assert all(list(layer) == ["kernel"] for layer in params.values()), "no biases"


def test_attention_has_any_number_of_leading_axes():
    queries = jnp.asarray(normal(0, 2, 3, 4, 6), jnp.float32)
    keys = jnp.asarray(normal(1, 2, 3, 5, 6), jnp.float32)
    module = layers.Attention(width=6, heads=2, dtype="float32")
    got, params = apply(module, queries, keys)
    flat, _ = apply(
        module, *(rearrange(x, "b g q d -> (b g) q d") for x in (queries, keys))
    )
    np.testing.assert_allclose(rearrange(got, "b g q d -> (b g) q d"), flat, rtol=1e-5)


def test_attention_in_bfloat16_is_near_that_of_the_same_inputs_in_float64():
    shapes = [(1, 4, 2, 8), (1, 300, 2, 8), (1, 300, 2, 8)]
    inputs = [jnp.asarray(normal(i, *s), jnp.bfloat16) for i, s in enumerate(shapes)]
    got = layers.attend(*inputs)
    assert got.dtype == jnp.bfloat16
    exact = [np.asarray(array, np.float64) for array in inputs]
    expected = reference_attention(*exact, np.ones((1, 300), bool))
    np.testing.assert_allclose(got.astype(jnp.float32), expected, atol=0.01)


# Feed-forward, norms, sinusoids.


@pytest.mark.parametrize("sizes", [(3, 7), (7, 3), (5, 5)])
def test_a_product_has_the_gradients_of_a_product(sizes):
    i, o = sizes
    tokens, to_out = normal(0, 2, 4, 6, i), normal(1, 2, 4, 6, o)
    weights = normal(2, i, o)
    out, pull = jax.vjp(layers.product, jnp.asarray(tokens), jnp.asarray(weights))
    to_tokens, to_weights = pull(jnp.asarray(to_out))
    np.testing.assert_allclose(out, tokens @ weights, atol=1e-5)
    np.testing.assert_allclose(to_tokens, to_out @ weights.T, atol=1e-5)
    summed = tokens.reshape(-1, i).T @ to_out.reshape(-1, o)
    np.testing.assert_allclose(to_weights, summed, atol=1e-5)


def test_feed_forward_is_two_layers_of_four_times_the_width():
    tokens = normal(0, 2, 3, 4)
    module = layers.FeedForward(dropout=0.0, dtype="float32")
    got, params = apply(module, jnp.asarray(tokens, jnp.float32))
    biases = [np.asarray(params[name]["bias"].value) for name in ("hidden", "out")]
    hidden = tokens @ kernel(params, "hidden") + biases[0]
    assert hidden.shape == (2, 3, 16)
    hidden = hidden * (1 + np.vectorize(math.erf)(hidden / 2**0.5)) / 2
    expected = hidden @ kernel(params, "out") + biases[1]
    # GELU is approximated with tanh, to within 1e-3.
    np.testing.assert_allclose(got, expected, atol=0.02)


def test_dropout_acts_in_training_only_and_keeps_the_mean():
    tokens = jnp.asarray(normal(0, 1, 1, 4), jnp.float32)
    module = layers.FeedForward(dropout=0.5, dtype="float32")
    plain, params = apply(module, tokens)
    keys = jax.random.split(jax.random.key(0), 4000)

    @jax.vmap
    def dropped(key):
        variables = {"params": params}
        return module.apply(variables, tokens, train=True, rngs={"dropout": key})

    several = dropped(keys)
    assert several.std(axis=0).min() > 0.1
    error = (several.mean(axis=0) - plain) / several.std(axis=0)
    assert jnp.abs(error).max() < 4 / 4000**0.5


def test_layer_norm_has_a_scale_and_no_bias():
    tokens = 3 + 2 * normal(0, 5, 8)
    got, params = apply(
        layers.layer_norm("norm", dtype="float32"), jnp.asarray(tokens, jnp.float32)
    )
    assert list(params) == ["scale"]
    expected = tokens - tokens.mean(axis=1, keepdims=True)
    expected /= np.sqrt(tokens.var(axis=1, keepdims=True) + 1e-6)
    scale = np.asarray(params["scale"].value)
    np.testing.assert_allclose(got, expected * scale[None], rtol=1e-4, atol=1e-5)


def test_sinusoids_have_geometric_periods_from_the_shortest_to_the_longest():
    value = np.array([0.0, 0.013, 1.7])
    got = layers.sinusoid(jnp.asarray(value), 6, min_period=0.1, max_period=10.0)
    angle = 2 * np.pi * value[:, None] / np.array([[0.1, 1.0, 10.0]])
    expected = np.concatenate([np.sin(angle), np.cos(angle)], axis=1)
    np.testing.assert_allclose(got, expected, atol=1e-4)


@pytest.mark.parametrize("remat, made", [("layer", 8), ("dots", 6), ("latent_dots", 6)])
def test_a_backward_pass_that_saves_products_recomputes_none(remat, made):
    """Two products are six with their gradients."""

    def loss(tokens, first, second):
        hidden = nn.gelu(layers.product(tokens, first))
        return jnp.sum(jnp.sin(layers.product(hidden, second)))

    gradient = jax.grad(jax.checkpoint(loss, policy=REMAT[remat]), argnums=(0, 1, 2))
    shapes = jnp.ones((5, 3)), jnp.ones((3, 4)), jnp.ones((4, 2))
    assert str(jax.make_jaxpr(gradient)(*shapes)).count("dot_general[") == made
