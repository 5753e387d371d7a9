"""The T5 encoder is the original's, in every published size and on any mesh."""

import warnings

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import t5_folder

from snapvideo_jax.models.t5 import (
    SIZES,
    T5Encoder,
    encoder_flops,
    encoder_parameters,
    position_buckets,
)
from snapvideo_jax.parallel.sharding import (
    MeshConfig,
    make_mesh,
    state_shardings,
    with_layout,
)
from snapvideo_jax.text.checkpoint import abstract_params, load_params
from snapvideo_jax.text.files import read_sizes

ONE = make_mesh(MeshConfig(data=1), batch=1, devices=jax.devices()[:1])


def ids_and_mask(lengths, tokens):
    rng = np.random.default_rng(0)
    mask = np.arange(tokens) < np.array(lengths)[:, None]
    ids = rng.integers(2, t5_folder.SIZES["vocab_size"], mask.shape) * mask
    return ids.astype(np.int32), mask


def embed(model, params, ids, mask):
    return jax.jit(model.apply)({"params": params}, jnp.asarray(ids), jnp.asarray(mask))


def loaded(folder, mesh=ONE, dtype="float32"):
    model = T5Encoder(read_sizes(folder), dtype)
    return model, load_params(folder, model, mesh)


# --- Beside the original ------------------------------------------------------------


@pytest.fixture(scope="module")
def transformers():
    pytest.importorskip("torch", reason="PyTorch comes with the parity extra")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("transformers", reason="comes with the parity extra")


@pytest.mark.parametrize("gated", [False, True], ids=["v1.0 relu", "v1.1 gated gelu"])
@pytest.mark.parametrize(
    "lengths, tokens",
    [((20, 20), 20), ((150,), 150), ((1, 7, 33), 40)],
    ids=["unpadded", "beyond the largest distance", "padded"],
)
def test_embeddings_are_those_of_transformers(
    transformers, tmp_path, gated, lengths, tokens
):
    import torch

    folder = t5_folder.write(tmp_path / "t5", gated)
    theirs = transformers.T5EncoderModel.from_pretrained(folder, local_files_only=True)
    ids, mask = ids_and_mask(lengths, tokens)
    with torch.no_grad():
        expected = theirs.eval()(
            input_ids=torch.from_numpy(ids).long(),
            attention_mask=torch.from_numpy(mask).long(),
        ).last_hidden_state.numpy()
    model, params = loaded(folder)
    ours = embed(model, params, ids, mask)
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(ours, expected, atol=1e-5, rtol=0)


# --- Positions ----------------------------------------------------------------------


def bucket_by_definition(distance):
    """Of 32: 16 a side; there 8 single distances, then 8 that grow up to 128.

    The k-th of those begins at 8 * 16^(k/8), compared here in whole numbers.
    """
    side, away = 16 * (distance > 0), abs(distance)
    if away < 8:
        return side + away
    begun = [k for k in range(8) if away**8 >= 8**8 * 16**k]
    return side + 8 + begun[-1]


def test_position_buckets_are_those_of_their_definition():
    found = position_buckets(300)
    expected = [[bucket_by_definition(k - q) for k in range(300)] for q in range(300)]
    np.testing.assert_array_equal(found, expected)
    assert set(found.ravel()) == set(range(32)) - {16}  # 0 away is not ahead


def test_attention_knows_distances_and_no_places(tmp_path):
    """The same words further right, behind padding on both sides, embed alike."""
    model, params = loaded(t5_folder.write(tmp_path / "t5"))
    ids, _ = ids_and_mask([9], 9)
    shifted = np.zeros((1, 20), np.int32)
    shifted[0, 6:15] = ids
    there = embed(model, params, shifted, shifted > 0)[:, 6:15]
    here = embed(model, params, ids, np.ones((1, 9), bool))
    np.testing.assert_allclose(there, here, atol=1e-5)


def test_what_lies_behind_the_mask_changes_nothing(tmp_path):
    model, params = loaded(t5_folder.write(tmp_path / "t5"))
    ids, mask = ids_and_mask([5], 12)
    other = np.where(mask, ids, 77)
    one, two = (embed(model, params, x, mask) for x in (ids, other))
    np.testing.assert_array_equal(one[mask], two[mask])
    alone = embed(model, params, ids[:, :5], mask[:, :5])
    np.testing.assert_allclose(one[:, :5], alone, atol=1e-5)


# --- Sizes --------------------------------------------------------------------------


@pytest.mark.parametrize("name", SIZES)
def test_every_published_size_has_its_shapes(name):
    model = T5Encoder(SIZES[name])
    leaves = jax.tree.leaves(nn.unbox(abstract_params(model)))
    assert sum(leaf.size for leaf in leaves) == encoder_parameters(SIZES[name])
    ids, mask = jnp.zeros((2, 128), jnp.int32), jnp.ones((2, 128), bool)
    out, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), ids, mask)
    assert out.shape == (2, 128, SIZES[name].width) and out.dtype == jnp.float32


def test_t5_11b_has_4_86_billion_parameters():
    attention = 4 * 1024 * (128 * 128)
    feed_forward = 2 * 1024 * 65536
    norms = 2 * 1024
    tables = 32128 * 1024 + 32 * 128
    expected = 24 * (attention + feed_forward + norms) + tables + 1024
    assert encoder_parameters(SIZES["t5-11b"]) == expected == 4_864_791_552


def test_flops_are_those_of_the_compiled_products(tmp_path):
    """All but little of what XLA counts; it also counts norms and softmax."""
    sizes = SIZES["t5-small"]
    model = T5Encoder(sizes, "float32")
    params = nn.unbox(abstract_params(model))
    # XLA counts the body of the scan over layers once.
    ids, mask = jnp.zeros((1, 64), jnp.int32), jnp.ones((1, 64), bool)
    compiled = jax.jit(model.apply).lower({"params": params}, ids, mask).compile()
    counted = compiled.cost_analysis()["flops"]
    assert encoder_flops(sizes, 64) / sizes.layers == pytest.approx(counted, rel=0.05)


# --- Meshes -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sizes",
    [MeshConfig(fsdp=8), MeshConfig(tensor=8), MeshConfig(fsdp=2, context=2, tensor=2)],
    ids=["fsdp", "tensor", "all"],
)
def test_eight_devices_embed_as_one_does(tmp_path, sizes):
    folder = t5_folder.write(tmp_path / "t5", gated=True)
    ids, mask = ids_and_mask([3, 9, 16, 1, 8, 8, 8, 2], 16)
    model, params = loaded(folder)
    expected = embed(model, params, ids, mask)
    mesh = make_mesh(sizes, batch=8)
    _, params = loaded(folder, mesh)
    divided = jax.jit(with_layout(model.apply, mesh))
    found = divided({"params": params}, jnp.asarray(ids), jnp.asarray(mask))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_devices_hold_their_part_of_t5_11b():
    mesh = make_mesh(MeshConfig(fsdp=8), batch=8)
    boxed = abstract_params(T5Encoder(SIZES["t5-11b"]))
    places = state_shardings(boxed, mesh)
    leaves = zip(jax.tree.leaves(nn.unbox(boxed)), jax.tree.leaves(places), strict=True)
    held = sum(np.prod(place.shard_shape(leaf.shape)) for leaf, place in leaves)
    assert held / encoder_parameters(SIZES["t5-11b"]) == pytest.approx(1 / 8, rel=1e-3)


def test_bfloat16_stays_near_float32(tmp_path):
    folder = t5_folder.write(tmp_path / "t5")
    ids, mask = ids_and_mask([16, 16], 16)
    exact, rough = (
        embed(model, params, ids, mask)
        for model, params in (loaded(folder), loaded(folder, dtype="bfloat16"))
    )
    error = np.sqrt(np.mean((exact - rough) ** 2) / np.mean(exact**2))
    assert 1e-4 < error < 0.03
