"""FIT: its sizes, what can influence what, and that options change nothing."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from einops import rearrange

from snapvideo_jax.models import FIT
from snapvideo_jax.models.flops import fit_forward, train_factor
from snapvideo_jax.models.layers import patchify, unpatchify
from snapvideo_jax.state import abstract_state


def outputs(*args, **keywords):
    return np.asarray(tiny.run(*args, **keywords)[0])


def changed(params, name, function):
    """``params`` with one of the model's own parameters replaced."""
    return params | {name: function(params[name])}


def in_groups(model, video):
    """Padded pixels by group."""
    above, below = model.pad_height
    rows = [(0, 0), (0, 0), (above, below), (0, 0), (0, 0)]
    return patchify(jnp.pad(jnp.asarray(video), rows), model.patch, model.group)


def from_groups(model, groups, frames):
    return unpatchify(groups, model.patch, model.group, frames, model.height)


# Sizes.


@pytest.mark.parametrize(
    "name, millions",
    [
        ("fit.py:size=500m", 502.0),
        ("fit.py:size=3p9b", 3923.0),
        ("fit_upsampler.py", 4070.0),
    ],
)
def test_the_paper_s_models_have_the_paper_s_parameters(name, millions):
    params = nn.unbox(abstract_state(tiny.experiment(name)).params)
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert abs(count / (millions * 1e6) - 1) < 0.005, f"{count:,}"
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(
    "name, teraflops",
    [
        ("fit.py:size=500m", 0.703),
        ("fit.py:size=3p9b", 6.44),
        ("fit_upsampler.py", 28.5),
    ],
)
def test_the_paper_s_models_take_the_operations_counted_by_hand(name, teraflops):
    model, text = tiny.experiment(name).model, tiny.experiment(name).text
    parts = fit_forward(model, text.tokens + model.context_numbers)
    assert abs(sum(parts.values()) / (teraflops * 1e12) - 1) < 0.01, parts


def test_a_training_step_is_worth_three_passes_and_the_self_conditioning_one():
    assert train_factor(0.9) == pytest.approx(3.9)


@pytest.mark.parametrize(
    "name, groups, per_group",
    [("fit.py", 8, 320), ("fit.py:size=3p9b", 8, 320), ("fit_upsampler.py", 32, 4608)],
)
def test_the_paper_s_models_have_the_paper_s_groups(name, groups, per_group):
    model = tiny.experiment(name).model
    assert (model.groups, model.patches_per_group) == (groups, per_group)


def test_the_counted_operations_of_a_small_model_are_those_of_its_matrices():
    # Every kernel multiplies each of its tokens once: all but scores and values.
    model = tiny.fit()
    params, tokens = tiny.random_params(model), tiny.TOKENS + model.context_numbers
    patches = model.groups * model.patches_per_group
    seen = {"context_read": tokens, "read": patches, "write": model.latents}
    total = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        names = [key.key for key in path]
        if names[-1] != "kernel" or names[0] == "context":
            continue
        layer = names[1] if names[0] == "blocks" else names[0]
        own = patches if layer in ("write", "patch_embed", "pixels") else model.latents
        is_source = names[-2] in ("key", "value") and "attention" in names
        total += 2 * leaf.size * (seen.get(layer, own) if is_source else own)
    pairs = {
        "context": (model.latents * tokens, model.context_width),
        "read": (model.latents * model.patches_per_group, model.patch_width),
        "global": (model.latents**2 * model.global_layers, model.latent_width),
        "write": (patches * model.latents // model.groups, model.patch_width),
    }
    total += model.blocks * sum(4 * pair * width for pair, width in pairs.values())
    assert sum(fit_forward(model, tokens).values()) == total


# The output, and self-conditioning.


def test_the_output_is_exactly_zero_at_init():
    model = tiny.fit()
    output, latents = tiny.run(model, tiny.fresh_params(model))
    assert output.shape == (2, 2, 6, 8, 3) and not output.any()
    assert latents.value.shape == (2, 8, 12) and latents.value.any()
    assert latents.known.all()


def test_self_conditioning_changes_nothing_at_init_and_much_later():
    model = tiny.fit()
    fresh = tiny.fresh_params(model)
    # The output's own zeros would hide everything.
    fresh = fresh | {"pixels": tiny.random_params(model)["pixels"]}
    plain = outputs(model, fresh)
    assert plain.any()
    before = tiny.previous(model)
    assert np.array_equal(outputs(model, fresh, latents=before), plain)
    scaled = changed(
        fresh, "self_conditioning_norm", lambda p: {"scale": p["scale"] + 1}
    )
    assert np.array_equal(outputs(model, scaled), plain)
    assert np.abs(outputs(model, scaled, latents=before) - plain).max() > 0.01


def test_unknown_latents_are_ignored():
    model = tiny.fit()
    some = tiny.previous(model).replace(known=jnp.array([True, False]))
    plain, conditioned = outputs(model), outputs(model, latents=some)
    assert np.abs(conditioned[0] - plain[0]).max() > 0.01
    np.testing.assert_allclose(conditioned[1], plain[1], rtol=1e-5, atol=1e-5)
    junk = some.replace(value=some.value.at[1].set(1e6))
    np.testing.assert_array_equal(outputs(model, latents=junk), conditioned)


def test_latents_of_a_call_condition_the_next():
    model = tiny.fit()
    first, latents = tiny.run(model)
    second, _ = tiny.run(model, latents=latents)
    assert jnp.abs(second - first).max() > 0.01


# Context.


def test_text_past_the_mask_cannot_matter():
    model = tiny.fit()
    about = tiny.context()
    beyond = ~about.text_mask[..., None]
    junk = about.replace(text=jnp.where(beyond, 1e3, about.text))
    np.testing.assert_array_equal(outputs(model, about=junk), outputs(model))
    other = about.replace(text=jnp.where(beyond, about.text, -about.text))
    assert np.abs(outputs(model, about=other) - outputs(model)).max() > 0.01


def test_dropped_text_cannot_matter_and_is_the_empty_caption():
    model = tiny.fit()
    drop = jnp.array([True, False])
    about = tiny.context(drop_text=drop)
    dropped = outputs(model, about=about)
    other = about.replace(text=-about.text, text_mask=about.text_mask.at[0].set(True))
    np.testing.assert_array_equal(outputs(model, about=other)[0], dropped[0])
    empty = tiny.context(text_mask=tiny.context().text_mask & ~drop[:, None])
    np.testing.assert_array_equal(outputs(model, about=empty), dropped)
    plain = outputs(model)
    assert np.abs(dropped[0] - plain[0]).max() > 0.01
    np.testing.assert_allclose(dropped[1], plain[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["frame_interval", "resolution"])
def test_the_other_context_matters_with_and_without_text(name):
    model = tiny.fit()
    for drop in (False, True):
        about = tiny.context(drop_text=jnp.full(2, drop))
        other = about.replace(**{name: 2 * getattr(about, name) + 0.5})
        difference = outputs(model, about=about) - outputs(model, about=other)
        assert np.abs(difference).max() > 0.01


def test_the_noise_level_matters():
    model = tiny.fit()
    low, high = (outputs(model, c_noise=jnp.full(2, c)) for c in (-1.5, 1.0))
    assert np.abs(high - low).max() > 0.01


def test_samples_of_a_batch_do_not_meet():
    model = tiny.fit()
    noisy = tiny.clip(model)
    other = noisy.at[1].set(-noisy[1])
    together, changed_ = outputs(model, noisy=noisy), outputs(model, noisy=other)
    np.testing.assert_array_equal(changed_[0], together[0])
    assert np.abs(changed_[1] - together[1]).max() > 0.01


# Groups.


@pytest.mark.parametrize("global_layers", [0, 1])
def test_a_group_sees_other_groups_only_through_latents(global_layers):
    model = tiny.fit(global_layers=global_layers, pad_height=(0, 0), height=8)
    noisy = tiny.clip(model)
    groups = in_groups(model, noisy)
    other = from_groups(model, groups.at[:, 0].set(-groups[:, 0]), model.frames)
    before, after = (in_groups(model, outputs(model, noisy=x)) for x in (noisy, other))
    moved = jnp.abs(after - before).max(axis=(0, 2, 3))
    assert moved[0] > 0.01
    assert (moved[1:] > 1e-4).all() if global_layers else not moved[1:].any()


def test_groups_permuted_with_their_positions_and_latents_permute_the_output():
    model = tiny.fit(pad_height=(0, 0), height=8)
    params, noisy = tiny.random_params(model), tiny.clip(model)
    before = tiny.previous(model)
    order = jnp.array([2, 0, 3, 1])

    def permute_latents(latents):
        grouped = rearrange(latents, "... (g m) e -> g ... m e", g=4)
        return rearrange(grouped[order], "g ... m e -> ... (g m) e")

    def permute_positions(positions):
        grouped = rearrange(positions, "(g p) d -> g p d", g=4)
        return rearrange(grouped[order], "g p d -> (g p) d")

    moved = changed(params, "patch_position", permute_positions)
    moved = changed(moved, "latents", permute_latents)
    groups = in_groups(model, noisy)[:, order]
    got = outputs(
        model,
        moved,
        noisy=from_groups(model, groups, model.frames),
        latents=before.replace(value=permute_latents(before.value)),
    )
    plain = outputs(model, noisy=noisy, latents=before)
    expected = in_groups(model, plain)[:, order]
    np.testing.assert_allclose(in_groups(model, got), expected, rtol=1e-3, atol=1e-4)
    assert np.abs(got - plain).max() > 0.1


# Padding, and fewer frames.


def test_padded_rows_are_zeros_and_cropped_from_the_output():
    model, whole = tiny.fit(), tiny.fit(height=8, pad_height=(0, 0))
    params, noisy = tiny.random_params(model), tiny.clip(model)
    padded = jnp.pad(noisy, ((0, 0), (0, 0), (1, 1), (0, 0), (0, 0)))
    expected = outputs(whole, params, noisy=padded)[:, :, 1:-1]
    got = outputs(model, params, noisy=noisy)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_a_single_frame_has_the_positions_of_the_first():
    model = tiny.fit()
    params, frame = tiny.random_params(model), tiny.clip(model)[:, :1]
    got = outputs(model, params, noisy=frame)
    assert got.shape == (2, 1, 6, 8, 3) and np.abs(got).max() > 0.1
    single = tiny.fit(frames=1)
    groups, patches = model.groups, model.patches_per_group // model.frames

    def of_the_first(positions):
        grouped = rearrange(positions, "(g p) d -> g p d", g=groups)
        return rearrange(grouped[:, :patches], "g p d -> (g p) d")

    first = changed(params, "patch_position", of_the_first)
    expected = outputs(single, first, noisy=frame)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


# Upsamplers.


def test_an_upsampler_reads_the_low_resolution_clip_and_its_noise():
    model = tiny.fit(in_channels=6)
    about = tiny.context_of(model)
    before = outputs(model, about=about)
    for name in ("low_resolution", "low_resolution_noise"):
        value = getattr(about, name)
        other = about.replace(**{name: value.at[0].add(0.5)})
        moved = np.abs(outputs(model, about=other) - before).max(axis=(1, 2, 3, 4))
        assert moved[0] > 0.01 and moved[1] == 0, name


# Options of how it is computed.


def output_and_gradient(model, params):
    @jax.jit
    def both(params):
        def total(params):
            output, latents = model.apply(
                {"params": params},
                tiny.clip(model),
                jnp.zeros(2),
                tiny.context(drop_text=jnp.array([True, False])),
                tiny.previous(model),
            )
            return jnp.square(output).sum() + latents.value.sum(), output

        (_, output), gradient = jax.value_and_grad(total, has_aux=True)(params)
        return output, gradient

    return both(params)


@functools.cache
def plain_output_and_gradient():
    plain = tiny.fit(global_layers=0)
    return output_and_gradient(plain, tiny.random_params(plain))


@pytest.mark.parametrize(
    "changes",
    [
        dict(remat="block", unroll=2),
        dict(remat="latent_dots"),
        dict(group_chunks=2),
        dict(group_chunks=4),
    ],
    ids=str,
)
def test_how_it_is_computed_changes_neither_output_nor_gradient(changes):
    other, expected = tiny.fit(global_layers=0, **changes), plain_output_and_gradient()
    got = output_and_gradient(other, tiny.random_params(tiny.fit(global_layers=0)))
    for left, right in zip(*map(jax.tree.leaves, (got, expected)), strict=True):
        scale = float(jnp.abs(right).max())
        assert scale > 0
        np.testing.assert_allclose(left, right, rtol=1e-3, atol=1e-4 * scale)


def test_a_bfloat16_network_is_near_the_float32_one_and_outputs_float32():
    model = tiny.fit()
    exact, near = (
        outputs(model),
        outputs(tiny.fit(dtype="bfloat16"), tiny.random_params(model)),
    )
    assert near.dtype == np.float32
    assert 0 < np.abs(near - exact).std() < 0.05 * exact.std()


def test_dropout_acts_in_training_only():
    model = tiny.fit(dropout=0.5)
    params = tiny.random_params(tiny.fit())
    inputs = tiny.clip(model), jnp.zeros(2), tiny.context(), model.no_latents(2)
    calm = tiny.compiled(model)(params, *inputs)[0]
    first, second = (
        tiny.compiled(model, train=True)(params, *inputs, dropout=jax.random.key(i))[0]
        for i in (0, 1)
    )
    without = tiny.compiled(tiny.fit())(params, *inputs)[0]
    np.testing.assert_allclose(calm, without, rtol=1e-5, atol=1e-5)
    assert jnp.abs(first - second).max() > 0.01


# Errors.


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            dict(frames=3, patch=(2, 2, 2)),
            r"model.frames=3 is not a multiple of model.patch\[0\]=2",
        ),
        (
            dict(height=7),
            r"model.height \+ pad_height=9 px is not a multiple of the 2 px of a "
            "patch; change it to 8 or 10",
        ),
        (dict(width=9), "model.width=9 px is not a multiple of the 2 px"),
        (
            dict(group=(3, 2)),
            r"model.group=\(3, 2\): 3 does not divide the 4 patches of "
            r"model.height \+ pad_height=8 px; use one of \[1, 2, 4\]",
        ),
        (dict(group=(2, 3)), r"3 does not divide the 4 patches of model.width=8 px"),
        (
            dict(latents=9),
            "model.latents=9 cannot be divided over 4 groups; use a multiple of 4",
        ),
        (
            dict(patch_head_width=3),
            "model.patch_width=8 is not a multiple of model.patch_head_width=3",
        ),
        (
            dict(latent_head_width=5),
            "model.latent_width=12 is not a multiple of model.latent_head_width=5",
        ),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_sizes_that_do_not_divide_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny.fit(**changes).validate()


@pytest.mark.parametrize("model", [tiny.fit(), FIT()], ids=["tiny", "default"])
def test_sizes_that_divide_are_accepted(model):
    assert model.validate() is None
