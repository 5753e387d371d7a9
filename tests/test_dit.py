"""The DiT baseline: matched to FIT 500M, and begun as the published blocks are."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from snapvideo_jax.models import DiT
from snapvideo_jax.state import abstract_state


def outputs(*args, **keywords):
    return np.asarray(tiny.run(*args, **keywords)[0])


@functools.cache
def sizes(name):
    """Parameters and FLOPs of a config."""
    experiment = tiny.experiment(name)
    params = nn.unbox(abstract_state(experiment).params)
    text = experiment.text
    flops = experiment.model.forward_flops(text.tokens, text.width)
    return sum(leaf.size for leaf in jax.tree.leaves(params)), sum(flops.values())


def test_one_config_matches_the_parameters_of_fit_and_one_its_operations():
    fit, matched = sizes("fit.py:size=500m"), sizes("dit.py:match=parameters")
    assert matched[0] == 503_170_864 and abs(matched[0] / fit[0] - 1) < 0.01
    assert 3.2 < matched[1] / fit[1] < 3.3
    matched = sizes("dit.py:match=flops")
    assert abs(matched[1] / fit[1] - 1) < 0.01 and 3 < fit[0] / matched[0] < 4
    for match in ("parameters", "flops"):
        model = tiny.experiment(f"dit.py:match={match}").model
        assert model.patches == 16 * 10 * 16
        assert model.patch == tiny.experiment("fit.py").model.patch


def test_the_counted_operations_of_a_small_one_are_those_that_the_compiler_counts():
    model = tiny.dit(patch_width=96, patch_head_width=48, unroll=2)
    params = jax.eval_shape(tiny.init(model), jax.random.key(0))
    inputs = tiny.clip(model, 1), jnp.zeros(1), tiny.context(1), ()
    call = jax.jit(lambda params: model.apply({"params": params}, *inputs))
    found = call.lower(params).compile().cost_analysis()["flops"]
    counted = sum(model.forward_flops(tiny.TOKENS, tiny.TEXT_WIDTH).values())
    assert 1 < found / counted < 1.1


def test_the_output_and_every_block_s_change_are_zero_at_init():
    model = tiny.dit()
    params = tiny.fresh_params(model)
    output, carry = tiny.run(model, params)
    assert output.shape == (2, 2, 6, 8, 3) and not output.any() and carry == ()
    # With pixels that show what the blocks give: they hand their input on.
    shown = params | {"pixels": tiny.random_params(model)["pixels"]}
    plain = outputs(model, shown)
    blocks = jax.tree.map(lambda leaf: leaf, params["blocks"])
    blocks["attention"] = tiny.random_params(model)["blocks"]["attention"]
    blocks["feed_forward"] = tiny.random_params(model)["blocks"]["feed_forward"]
    np.testing.assert_array_equal(outputs(model, shown | {"blocks": blocks}), plain)
    assert plain.any()


def test_a_patch_sees_every_other_patch():
    model = tiny.dit(pad_height=(0, 0), height=8)
    noisy = tiny.clip(model)
    other = noisy.at[:, 0, :2, :2].add(1.0)
    moved = np.abs(outputs(model, noisy=other) - outputs(model, noisy=noisy))
    per_patch = moved.reshape(2, 2, 4, 2, 4, 2, 3).max((0, 3, 5, 6))
    assert (per_patch > 1e-4).all()


def test_attention_is_that_of_the_definition():
    """One block without numbers, in float64: gates are 1, scales and shifts 0."""
    model = tiny.dit(blocks=1, pad_height=(0, 0), height=8)
    params = jax.tree.map(np.asarray, tiny.random_params(model))
    width = model.patch_width
    modulation = {"kernel": np.zeros((1, width, 6 * width), np.float32)}
    modulation["bias"] = np.repeat([0, 0, 1, 0, 0, 1], width)[None].astype(np.float32)
    params["blocks"] = params["blocks"] | {"modulation": modulation}
    params["modulation"] = jax.tree.map(np.zeros_like, params["modulation"])
    about, noisy = tiny.context(), tiny.clip(model)
    got = outputs(model, params, noisy=noisy, about=about)

    block = jax.tree.map(lambda leaf: np.asarray(leaf[0], np.float64), params["blocks"])

    def dense(x, layer):
        return x @ np.asarray(layer["kernel"], np.float64) + layer["bias"]

    def norm(x):
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt(x.var(-1, keepdims=True) + 1e-6)

    def attend(queries, keys, layer, mask=None):
        q, k, v = (
            (x @ layer[n]["kernel"]).reshape(*x.shape[:-1], 2, 6)
            for x, n in ((queries, "query"), (keys, "key"), (keys, "value"))
        )
        scores = np.einsum("bqav,bkav->baqk", q, k) / 6**0.5
        if mask is not None:
            scores = np.where(mask[:, None, None], scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        seen = np.einsum("baqk,bkav->bqav", weights, v)
        return seen.reshape(*queries.shape[:-1], 12) @ layer["out"]["kernel"]

    # Patches of 1x2x2 px, a frame's rows first.
    pieces = np.asarray(noisy, np.float64).reshape(2, 2, 4, 2, 4, 2, 3)
    pieces = pieces.transpose(0, 1, 2, 4, 3, 5, 6).reshape(2, 32, 12)
    place = [np.arange(n) / n for n in model.grid]
    grid = np.stack(np.meshgrid(*place, indexing="ij"), -1).reshape(-1, 3)
    angle = grid[..., None] * 2 * np.pi / np.array([0.1, 4.0])
    waves = np.concatenate([np.sin(angle), np.cos(angle)], -1).reshape(-1, 12)
    x = dense(pieces, params["patch_embed"]) + waves
    x = x + attend(norm(x), norm(x), block["attention"])
    text = dense(np.asarray(about.text, np.float64), params["text"])
    queries = norm(x) * block["text_norm"]["scale"]
    x = x + attend(queries, text, block["text_attention"], np.asarray(about.text_mask))
    hidden = dense(norm(x), block["feed_forward"]["hidden"])
    hidden = np.asarray(nn.gelu(hidden), np.float64)
    x = x + dense(hidden, block["feed_forward"]["out"])
    out = dense(norm(x), params["pixels"]).reshape(2, 2, 4, 4, 2, 2, 3)
    expected = out.transpose(0, 1, 2, 4, 3, 5, 6).reshape(2, 2, 8, 8, 3)
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-3)


def test_text_past_the_mask_and_dropped_text_cannot_matter():
    model = tiny.dit()
    plain, about = outputs(model), tiny.context()
    beyond = ~about.text_mask[..., None]
    junk = about.replace(text=jnp.where(beyond, 1e3, about.text))
    np.testing.assert_array_equal(outputs(model, about=junk), plain)
    drop = jnp.array([True, False])
    dropped = outputs(model, about=tiny.context(drop_text=drop))
    other = about.replace(text=about.text.at[0].multiply(-3), drop_text=drop)
    np.testing.assert_array_equal(outputs(model, about=other), dropped)
    assert np.abs(dropped[0] - plain[0]).max() > 0.01


@functools.cache
def output_and_gradient(remat):
    model = tiny.dit(remat=remat)

    def total(params):
        inputs = tiny.clip(model), jnp.zeros(2), tiny.context(), ()
        return jnp.square(model.apply({"params": params}, *inputs)[0]).mean()

    return jax.jit(jax.value_and_grad(total))(tiny.random_params(tiny.dit()))


@pytest.mark.parametrize("remat", ["block", "dots"])
def test_remat_changes_neither_output_nor_gradient(remat):
    got, expected = output_and_gradient(remat), output_and_gradient("none")
    for left, right in zip(*map(jax.tree.leaves, (got, expected)), strict=True):
        scale = float(jnp.abs(right).max())
        np.testing.assert_allclose(left, right, rtol=1e-3, atol=1e-4 * scale)


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(height=7), r"height \+ pad_height=9 is not a multiple of model.patch\[1"),
        (dict(frames=3, patch=(2, 2, 2)), "model.frames=3 is not a multiple of model"),
        (dict(patch_head_width=5), "patch_width=12 is not a multiple of model.patch_h"),
        (
            dict(in_channels=6),
            "in_channels=6 .* this network is a first stage; use 3 and 3",
        ),
        (dict(dtype="float8"), "model.dtype='float8' is unknown; use one of"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_sizes_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny.dit(**changes).validate()


@pytest.mark.parametrize("model", [tiny.dit(), DiT()], ids=["tiny", "default"])
def test_sizes_that_fit_are_accepted(model):
    assert model.validate() is None
