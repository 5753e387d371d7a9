"""The U-Net baselines: the published design's sizes, and its blocks by definition."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from snapvideo_jax.models import UNet
from snapvideo_jax.models.unet_blocks import (
    FrameNorm,
    Residual,
    TextAttention,
    resampled,
)
from snapvideo_jax.state import abstract_state

SIZES = ("85m", "284m")


def outputs(*args, **keywords):
    return np.asarray(tiny.run(*args, **keywords)[0])


@functools.cache
def shapes_of(size):
    """Names of all parameters of a published size, and their shapes."""
    params = nn.unbox(abstract_state(tiny.experiment(f"unet.py:size={size}")).params)
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {"/".join(key.key for key in path): leaf.shape for path, leaf in leaves}


def count(shapes):
    return sum(int(np.prod(shape)) for shape in shapes.values())


def part_of(name):
    """The row of the breakdown that a parameter belongs to."""
    block, layer, *_ = name.split("/")
    if block in ("stem", "output_norm", "pixels"):
        return "stem and head"
    if block in ("text", "numbers"):
        return block
    if layer == "scale_shift":
        return "scales and shifts"
    if layer in ("text_key", "text_value"):
        return "text keys and values"
    for over in ("space", "time"):
        if block.endswith(over):
            return over
    is_resampling = block.startswith(("halve", "double"))
    return "resampling blocks" if is_resampling else "residual blocks"


# Sizes.


@pytest.mark.parametrize(
    "size, parameters", [("85m", 85_108_739), ("284m", 283_645_827)]
)
def test_the_two_sizes_have_exactly_the_parameters_of_the_reading(size, parameters):
    assert count(shapes_of(size)) == parameters


@pytest.mark.parametrize(
    "size, parameters", [("85m", 62_512_899), ("284m", 228_645_123)]
)
def test_without_what_is_not_of_images_they_are_the_published_image_network(
    size, parameters
):
    """Those of guided-diffusion's own class: no text, no time, one number."""
    of_video = ("text", "time", "text keys and values")
    others = ("frame_interval", "resolution")
    of_images = {
        name: shape
        for name, shape in shapes_of(size).items()
        if part_of(name) not in of_video
        and "_time/" not in name
        and not any(name.startswith(f"numbers/{other}") for other in others)
    }
    assert count(of_images) == parameters


@pytest.mark.parametrize("row", range(8))
def test_every_part_has_the_parameters_that_are_counted_by_hand(row):
    names = "residual blocks, resampling blocks, scales and shifts, space, time, "
    names += "text keys and values, numbers, text"
    expected = {
        "85m": (40693376, 7676928, 7617024, 6189568, 6189568, 14961664, 986112, 787200),
        "284m": (
            *(153991872, 28550016, 21556608, 23796864, 23796864, 28939008),
            *(2216448, 787200),
        ),
    }
    name = names.split(", ")[row]
    for size in SIZES:
        part = {n: s for n, s in shapes_of(size).items() if part_of(n) == name}
        assert count(part) == expected[size][row]


@pytest.mark.parametrize("size, more", [("85m", 2_356), ("284m", 4_557)])
def test_a_learned_order_of_frames_takes_a_number_for_each_head_and_distance(
    size, more
):
    model = tiny.experiment(f"unet.py:size={size}").model
    heads = [s.width // 64 for s in model.steps() if s.attends]
    assert 31 * sum(heads) == more
    plain, learned = (
        jax.eval_shape(tiny.init(tiny.unet(time=time)), jax.random.key(0))
        for time in ("sinusoid", "relative")
    )
    sizes = [sum(leaf.size for leaf in jax.tree.leaves(p)) for p in (plain, learned)]
    heads = [s.width // 4 for s in tiny.unet().steps() if s.attends]
    assert sizes[1] - sizes[0] == 5 * sum(heads)


@pytest.mark.parametrize("size", SIZES)
def test_blocks_levels_and_skips_are_those_of_the_design(size):
    model = tiny.experiment(f"unet.py:size={size}").model
    steps = model.steps()
    assert len(steps) == 28 and sum(step.attends for step in steps) == 16
    assert sum(step.skips for step in steps) == 11  # and the stem
    assert sum(step.joins for step in steps) == 12
    assert [model.size(level) for level in range(4)] == [
        (40, 64), (20, 32), (10, 16), (5, 8),
    ]  # fmt: skip
    up = [step.width_in for step in steps if step.joins]
    assert (
        up
        == {
            "85m": [768, 768, 640, 640, 512, 512, 512, 512, 384, 384, 256, 256],
            "284m": [1536, 1536, 1344, 1344, 1152, 960, 960, 768, 576, 576, 384, 384],
        }[size]
    )


@pytest.mark.parametrize(
    "size, gigaflops",
    [
        ("85m", (403.41, 147.98, 38.08, 35.89, 38.08, 1.14, 3.83, 18.29)),
        ("284m", (1083.01, 428.92, 112.49, 55.52, 112.49, 1.92, 7.40, 30.70)),
    ],
)
def test_every_part_takes_the_operations_that_are_counted_by_hand(size, gigaflops):
    parts = tiny.experiment(f"unet.py:size={size}").model.forward_flops(128, 1024)
    names = ["residual blocks", "resampling blocks", "spatial projections"]
    names += ["spatial attention", "temporal projections", "temporal attention"]
    names += ["text keys and values", "attention to text"]
    for name, expected in zip(names, gigaflops, strict=True):
        assert parts[name] / 1e9 == pytest.approx(expected, abs=0.006), name
    total = {"85m": 687.48, "284m": 1833.55}[size]
    assert sum(parts.values()) / 1e9 == pytest.approx(total, abs=0.01)


def test_the_counted_operations_of_a_small_one_are_those_that_the_compiler_counts():
    model = tiny.unet(channels=32, head_width=32, height=14, width=16)
    tokens, width = tiny.TOKENS, tiny.TEXT_WIDTH
    counted = sum(model.forward_flops(tokens, width).values())
    # The compiler leaves out what a kernel sees beyond the edge of a frame.
    for step in model.steps():
        rows, columns = model.size(step.level)
        seen = (3 * rows - 2) * (3 * columns - 2) / (9 * rows * columns)
        pixels = model.frames * rows * columns
        counted -= 18 * (1 - seen) * pixels * (step.width_in + step.width) * step.width
    params = jax.eval_shape(tiny.init(model), jax.random.key(0))
    inputs = tiny.clip(model, 1), jnp.zeros(1), tiny.context(1), ()
    call = jax.jit(lambda params: model.apply({"params": params}, *inputs))
    found = call.lower(params).compile().cost_analysis()["flops"]
    # Beside products it counts norms and activations.
    assert 1 < found / counted < 1.1


# Blocks, against their definitions.


def random(shapes, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: jnp.asarray(0.4 * rng.normal(size=leaf.shape), jnp.float32), shapes
    )


def params_of(module, *inputs):
    return random(nn.unbox(module.init(jax.random.key(0), *inputs)["params"]))


def float64(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


@pytest.mark.parametrize("resample", [-1, 0, 1])
def test_a_residual_block_is_the_published_one_of_every_frame(resample):
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    clip, embedding = tiny.normal(0, 2, 3, 4, 6, 8), tiny.normal(1, 2, 5)
    module = Residual(12, resample, 4, 0.0, "float32")
    params = params_of(module, clip, embedding, False)
    got = module.apply({"params": params}, clip, embedding, False)

    def tensor(array):
        return torch.from_numpy(np.asarray(array, np.float64))

    def conv(x, layer):
        kernel = tensor(layer["kernel"]).permute(3, 2, 0, 1)
        padding = kernel.shape[-1] // 2
        return functional.conv2d(x, kernel, tensor(layer["bias"]), padding=padding)

    def norm(x, layer):
        scale, bias = tensor(layer["scale"]), tensor(layer["bias"])
        return functional.group_norm(x, 4, scale, bias, eps=1e-5)

    def resize(x):
        if resample < 0:
            return functional.avg_pool2d(x, 2)
        return functional.interpolate(x, scale_factor=2.0) if resample else x

    x = tensor(clip).flatten(0, 1).permute(0, 3, 1, 2)
    hidden = conv(resize(functional.silu(norm(x, params["norm"]))), params["conv"])
    layer = params["scale_shift"]
    vector = functional.silu(tensor(embedding)) @ tensor(layer["kernel"])
    vector = (vector + tensor(layer["bias"])).repeat_interleave(3, 0)[..., None, None]
    scale, shift = vector.chunk(2, dim=1)
    hidden = norm(hidden, params["hidden_norm"]) * (1 + scale) + shift
    expected = conv(resize(x), params["skip"])
    expected = expected + conv(functional.silu(hidden), params["conv_out"])
    expected = expected.permute(0, 2, 3, 1).unflatten(0, (2, 3))
    np.testing.assert_allclose(got, expected.numpy(), rtol=1e-4, atol=1e-4)


def attention_by_definition(clip, text, mask, params, over, bias):
    """One query at a time, in float64."""
    batch, frames, rows, columns, width = clip.shape
    heads, params = width // 4, float64(params)
    groups = clip.reshape(batch, frames, -1, 4, width // 4)
    mean = groups.mean((2, 4), keepdims=True)
    normed = (groups - mean) / np.sqrt(groups.var((2, 4), keepdims=True) + 1e-5)
    normed = normed.reshape(clip.shape) * params["norm"]["scale"]
    normed = normed + params["norm"]["bias"]

    def project(tokens, name):
        made = tokens @ params[name]["kernel"] + params[name]["bias"]
        return made.reshape(*tokens.shape[:-1], heads, 4)

    query, key, value = (project(normed, n) for n in ("query", "key", "value"))
    text_key, text_value = (project(text, n) for n in ("text_key", "text_value"))
    out = np.zeros_like(clip)
    for b, t, h, w in np.ndindex(batch, frames, rows, columns):
        near = (b, t) if over == "space" else (b, slice(None), h, w)
        seen = np.zeros((heads, 4))
        for a in range(heads):
            keys, values = key[near][..., a, :], value[near][..., a, :]
            keys = np.concatenate([text_key[b, mask[b], a], keys.reshape(-1, 4)])
            values = np.concatenate([text_value[b, mask[b], a], values.reshape(-1, 4)])
            scores = keys @ query[b, t, h, w, a] / 2
            if bias is not None:
                scores[mask[b].sum() :] += bias[frames - 1 - t :, a][:frames]
            weights = np.exp(scores - scores.max())
            seen[a] = weights @ values / weights.sum()
        layer = params["out"]
        out[b, t, h, w] = seen.ravel() @ layer["kernel"] + layer["bias"]
    return clip + out


@pytest.mark.parametrize("over, time", [("space", "none"), ("time", "relative")])
def test_attention_is_one_softmax_over_text_and_the_positions_or_frames(over, time):
    clip, text = tiny.normal(0, 2, 3, 2, 4, 8), tiny.normal(1, 2, 5, 6)
    mask = jnp.array([[True] * 5, [True, False, True, False, False]])
    module = TextAttention(over, 4, 4, time, 3, "float32")
    params = params_of(module, clip, text, mask)
    got = module.apply({"params": params}, clip, text, mask)
    bias = np.asarray(params["time_bias"]) if time == "relative" else None
    known = np.asarray(mask), params, over, bias
    expected = attention_by_definition(*float64((clip, text)), *known)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_a_norm_is_that_of_every_frame_for_itself():
    clip = tiny.normal(0, 2, 3, 4, 4, 8) * 5 + 2
    module = FrameNorm(2)
    params = module.init(jax.random.key(0), clip)
    got = np.asarray(module.apply(params, clip)).reshape(2, 3, 16, 2, 4)
    np.testing.assert_allclose(got.mean((2, 4)), 0, atol=1e-5)
    np.testing.assert_allclose(got.std((2, 4)), 1, atol=1e-4)


def test_halving_undoes_doubling():
    clip = tiny.normal(0, 1, 2, 4, 6, 3)
    doubled = resampled(clip, 1)
    assert doubled.shape == (1, 2, 8, 12, 3)
    np.testing.assert_array_equal(doubled[:, :, ::2, 1::2], clip)
    np.testing.assert_allclose(resampled(doubled, -1), clip, rtol=1e-6)


# The whole.


def test_the_output_is_exactly_zero_at_init():
    model = tiny.unet()
    output, carry = tiny.run(model, tiny.fresh_params(model))
    assert output.shape == (2, 3, 6, 8, 3) and not output.any() and carry == ()


def test_frames_meet_in_attention_over_time_only():
    noisy = tiny.clip(tiny.unet())
    other = noisy.at[:, 0].set(-noisy[:, 0])
    for model, meet in ((tiny.unet(attention_from=2), False), (tiny.unet(), True)):
        moved = np.abs(outputs(model, noisy=other) - outputs(model, noisy=noisy))
        moved = moved.max(axis=(0, 2, 3, 4))
        assert moved[0] > 0.01 and (moved[1:] > 1e-3).all() == meet
        assert moved[1:].any() == meet


@pytest.mark.parametrize("time", ["none", "sinusoid", "relative"])
def test_the_order_of_frames_is_known_unless_nothing_tells_it(time):
    model, order = tiny.unet(time=time), jnp.array([2, 0, 1])
    noisy = tiny.clip(model)
    moved, plain = (outputs(model, noisy=x) for x in (noisy[:, order], noisy))
    apart = np.abs(moved - plain[:, order]).max()
    assert apart < 1e-4 if time == "none" else apart > 0.01


def test_text_past_the_mask_and_dropped_text_cannot_matter():
    model = tiny.unet()
    plain, about = outputs(model), tiny.context()
    beyond = ~about.text_mask[..., None]
    junk = about.replace(text=jnp.where(beyond, 1e3, about.text))
    np.testing.assert_array_equal(outputs(model, about=junk), plain)
    drop = jnp.array([True, False])
    dropped = outputs(model, about=tiny.context(drop_text=drop))
    other = about.replace(text=about.text.at[0].multiply(-3), drop_text=drop)
    np.testing.assert_array_equal(outputs(model, about=other), dropped)
    empty = about.replace(text_mask=about.text_mask & ~drop[:, None])
    np.testing.assert_array_equal(outputs(model, about=empty), dropped)
    assert np.abs(dropped[0] - plain[0]).max() > 0.01


def test_every_number_matters_and_samples_of_a_batch_do_not_meet():
    model = tiny.unet()
    plain, about = outputs(model), tiny.context()
    changed = {
        name: about.replace(**{name: getattr(about, name).at[0].add(0.7)})
        for name in ("frame_interval", "resolution")
    }
    noisier = outputs(model, c_noise=jnp.array([-0.3, 0.5]))
    for other in (noisier, *(outputs(model, about=a) for a in changed.values())):
        moved = np.abs(other - plain).max(axis=(1, 2, 3, 4))
        assert moved[0] > 1e-3 and moved[1] < 1e-5


def output_and_gradient(model):
    params = tiny.random_params(tiny.unet())

    @jax.jit
    def both(params):
        def total(params):
            inputs = tiny.clip(model), jnp.zeros(2), tiny.context(), ()
            output, _ = model.apply({"params": params}, *inputs)
            return jnp.square(output).mean()

        return jax.value_and_grad(total)(params)

    return both(params)


@pytest.mark.slow
def test_remat_changes_neither_output_nor_gradient():
    expected = output_and_gradient(tiny.unet())
    for remat in ("dots", "layer"):
        got = output_and_gradient(tiny.unet(remat=remat))
        for left, right in zip(*map(jax.tree.leaves, (got, expected)), strict=True):
            scale = float(jnp.abs(right).max())
            np.testing.assert_allclose(left, right, rtol=1e-3, atol=1e-4 * scale)


def test_a_bfloat16_network_is_near_the_float32_one_and_outputs_float32():
    exact = outputs(tiny.unet())
    near = outputs(tiny.unet(dtype="bfloat16"), tiny.random_params(tiny.unet()))
    assert near.dtype == np.float32
    assert 0 < np.abs(near - exact).std() < 0.1 * exact.std()


def test_kernels_begin_uniform_and_every_block_as_nothing():
    params = tiny.fresh_params(tiny.unet(channels=32))
    kernel, bias = params["down_0_0"]["conv"]["kernel"], params["stem"]["bias"]
    for values, fan_in in ((kernel, 9 * 32), (bias, 27)):
        bound = fan_in**-0.5
        assert 0.8 * bound < jnp.abs(values).max() <= bound
        assert abs(float(values.std()) * 3**0.5 / bound - 1) < 0.25
    assert not params["down_0_0"]["conv_out"]["kernel"].any()
    assert not params["middle_0_time"]["out"]["kernel"].any()


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            dict(height=7),
            r"height \+ pad_height=9 px cannot be halved 1 times; use a",
        ),
        (
            dict(width=9),
            "model.width=9 px cannot be halved 1 times; use a multiple o",
        ),
        (
            dict(norm_groups=3),
            "model.channels=8 is not a multiple of model.norm_groups",
        ),
        (
            dict(head_width=5),
            "model.head_width=5 does not divide the 16 channels of le",
        ),
        (dict(time="clock"), "model.time='clock' is unknown; use one of"),
        (dict(remat="offload"), "model.remat='offload' is unknown; use one of"),
        (dict(dtype="float8"), "model.dtype='float8' is unknown; use one of"),
        (
            dict(in_channels=6),
            "in_channels=6 .* this network is a first stage; use 3 and 3",
        ),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_sizes_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny.unet(**changes).validate()


@pytest.mark.parametrize("model", [tiny.unet(), UNet()], ids=["tiny", "default"])
def test_sizes_that_fit_are_accepted(model):
    assert model.validate() is None
