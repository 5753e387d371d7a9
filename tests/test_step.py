"""The train step: what a loss depends on, and what happens to whom how often."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from snapvideo_jax.diffusion import EDM, broadcast, classifier_free_guidance, duplicate
from snapvideo_jax.diffusion.low_resolution import enlarge, shrink
from snapvideo_jax.diffusion.noise import fold_in, normal, sample_keys
from snapvideo_jax.optim import Optimizer
from snapvideo_jax.planning.programs import abstract_batch
from snapvideo_jax.state import TrainState, abstract_state
from snapvideo_jax.step import (
    BIN_EDGES,
    NOISE,
    SIGMA,
    StepKeys,
    Training,
    first_pass,
    make_denoise,
    sample_losses,
    train_step,
    train_step_of,
)
from snapvideo_jax.types import Latents, pixels

KEY = jax.random.key(7)
PLAIN = Training(self_conditioning=0.0, self_conditioning_period=2, label_dropout=0.0)
CONFIGS = [
    "fit.py:size=500m",
    "fit.py:size=3p9b",
    "fit_upsampler.py",
    *(f"fit.py:ablation={name}" for name in ("edm", "ii", "iii", "iv")),
    "unet.py:size=85m",
    "unet.py:size=284m",
    "dit.py:match=parameters",
    "dit.py:match=flops",
    "demo.py",
    "demo_long.py",
    "demo_upsampler.py",
    "clips.py",
    "clips.py:subset=8",
]


def batch_of(model, size, first=0):
    """Videos and images in turn, samples ``first ...`` of the global sequence."""
    rng = np.random.default_rng(0)
    shape = (size, model.frames, model.height, model.width, 3)
    about = tiny.context(size)
    return {
        "video": jnp.asarray(rng.integers(0, 256, shape), jnp.uint8),
        "frame_interval": 0.1 * (1.0 - jnp.arange(size) % 2),
        "resolution": about.resolution,
        "text": about.text,
        "text_mask": about.text_mask,
        "sample": first + jnp.arange(size, dtype=jnp.uint32),
    }


def take(batch, index):
    return jax.tree.map(lambda leaf: leaf[jnp.asarray(index)], batch)


@functools.cache
def compiled_losses(model, edm, training):
    losses = functools.partial(sample_losses, model=model, edm=edm, training=training)
    return jax.jit(losses)


def losses_of(batch, model=None, edm=None, training=PLAIN, step_key=KEY):
    """Losses of the samples, their noise levels, and which are images."""
    model = model or tiny.fit()
    params = tiny.random_params(model)
    compute = compiled_losses(model, edm or EDM(), training)
    losses, sigma, is_image, number = map(
        np.asarray, compute(params, batch, StepKeys(KEY, step_key))
    )
    assert set(number.tolist()) == set(np.asarray(batch["sample"]).tolist())
    return losses, sigma, is_image


@dataclasses.dataclass(frozen=True)
class Spy:
    """A network that predicts 0 and keeps what it is called with."""

    calls: list

    def no_latents(self, batch):
        return Latents(value=jnp.zeros((batch, 1, 1)), known=jnp.zeros(batch, bool))

    def apply(self, variables, noisy, c_noise, context, previous, **options):
        self.calls.append((noisy, c_noise, context, previous))
        return jnp.zeros_like(noisy), previous.replace(known=~previous.known)


class Line:
    """A network of five numbers: ``F`` of all it is given, quick to compile."""

    params = dict(signal=0.3, level=-0.2, dropped=0.5, memory=0.7, dropout=0.0)

    def no_latents(self, batch):
        return Latents(value=jnp.zeros((batch, 1, 1)), known=jnp.zeros(batch, bool))

    def apply(
        self, variables, noisy, c_noise, context, previous, train=False, rngs=None
    ):
        params = variables["params"]
        offset = params["level"] * c_noise + params["dropped"] * context.drop_text
        seen = jnp.where(previous.known, previous.value[:, 0, 0], 0.0)
        offset += params["memory"] * seen
        output = params["signal"] * noisy + broadcast(offset, noisy)
        if train:
            dropped = jax.random.normal(rngs["dropout"], noisy.shape)
            output += params["dropout"] * dropped
        latents = noisy[:, :1, 0, 0, :1].sum(axis=2)[..., None]
        return output, Latents(value=latents, known=jnp.ones(len(noisy), bool))


LINE = Line()


def watched(batch, training=PLAIN, edm=None, key=KEY, step_key=KEY):
    """All calls that the losses of a batch make of a network."""
    spy = Spy([])
    options = dict(model=spy, edm=edm or EDM(), training=training)
    sample_losses({}, batch, StepKeys(key, step_key), **options)
    return spy.calls


# Low-resolution conditioning.


def test_an_upsampler_sees_the_shrunk_clip_with_a_known_amount_of_noise():
    batch, size = batch_of(tiny.fit(), 64), (3, 4)
    conditioning, training = [], dataclasses.replace(PLAIN, low_resolution=size)
    for most in (0.0, 0.5):
        training = dataclasses.replace(training, low_resolution_noise=most)
        ((_, _, context, _),) = watched(batch, training)
        conditioning.append((context.low_resolution, context.low_resolution_noise))
    (clean, none), (noisy, level) = conditioning
    expected = enlarge(shrink(pixels(batch["video"]), size), (6, 8))
    np.testing.assert_allclose(clean, expected, atol=1e-5)
    assert not none.any() and 0 <= level.min() and level.max() <= 0.5
    assert 0.2 < level.mean() < 0.3 and len(np.unique(level)) == 64
    # Enlarging averages neighbours, so the noise that arrives is a known share of it.
    arrived = np.std(noisy - clean, axis=(1, 2, 3, 4)) / level
    unit = np.random.default_rng(0).normal(size=(64, 2, *size, 3))
    share = float(np.std(enlarge(jnp.asarray(unit, jnp.float32), (6, 8))))
    assert np.mean(arrived) == pytest.approx(share, rel=0.05)


# A sample's loss is its own.


def test_a_loss_depends_neither_on_the_order_nor_on_the_rest_of_the_batch():
    batch = batch_of(tiny.fit(), 6)
    losses, sigma, is_image = losses_of(batch)
    assert len(np.unique(losses)) == 6 and is_image.tolist() == 3 * [False, True]
    order = [3, 0, 5, 1, 4, 2]
    moved = losses_of(take(batch, order))
    np.testing.assert_allclose(moved[0], losses[order], rtol=1e-5)
    np.testing.assert_array_equal(moved[1], sigma[order])
    for index in (0, 5):
        alone, level, _ = losses_of(take(batch, [index]))
        np.testing.assert_allclose(alone, losses[index : index + 1], rtol=1e-5)
        np.testing.assert_allclose(level, sigma[index : index + 1], rtol=1e-6)


def test_noise_is_that_of_the_sample_s_number_in_the_global_sequence():
    batch = batch_of(tiny.fit(), 2)
    losses, sigma, _ = losses_of(batch)
    later, other_sigma, _ = losses_of(batch | {"sample": batch["sample"] + 2})
    assert not set(sigma) & set(other_sigma)
    assert np.abs(later / losses - 1).min() > 1e-3
    again, _, _ = losses_of(batch, step_key=jax.random.key(8))
    np.testing.assert_array_equal(again, losses)


def test_a_loss_is_that_of_the_corrupted_clip():
    edm = EDM(sigma_in=3.0, sigma_data=0.7)
    batch = batch_of(tiny.fit(), 4)
    ((noisy, c_noise, _, _),) = watched(batch, edm=edm)
    keys = sample_keys(KEY, batch["sample"])
    sigma = np.asarray(edm.training_sigma(fold_in(keys, SIGMA)))
    eps = np.asarray(normal(fold_in(keys, NOISE), noisy.shape[1:]))
    clip = np.asarray(batch["video"], np.float64) / 127.5 - 1
    level = sigma[:, None, None, None, None]
    expected = (clip / 3 + level * eps) / np.sqrt((0.7 / 3) ** 2 + level**2)
    np.testing.assert_allclose(noisy, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(c_noise, np.log(sigma) / 4, rtol=1e-5, atol=1e-6)
    assert abs(np.corrcoef(eps[0].ravel(), eps[1].ravel())[0, 1]) < 0.3


def test_pixels_run_from_minus_1_to_1():
    values = jnp.array([0, 51, 255], jnp.uint8).reshape(3, 1, 1, 1, 1)
    np.testing.assert_allclose(pixels(values).ravel(), [-1, -0.6, 1], atol=1e-6)


# Self-conditioning and label dropout.


@pytest.mark.parametrize(
    "share, period, pattern",
    [(0.75, 4, [1, 1, 1, 0] * 2), (0.5, 8, [1] * 4 + [0] * 4), (1.0, 2, [1] * 8)],
)
def test_exactly_the_share_of_every_period_is_self_conditioned(share, period, pattern):
    training = dataclasses.replace(
        PLAIN, self_conditioning=share, self_conditioning_period=period
    )
    first, second = watched(batch_of(tiny.fit(), 8), training)
    assert second[3].known.tolist() == pattern
    assert len(first[0]) == sum(pattern) and not first[3].known.any()
    chosen = np.flatnonzero(pattern)
    for left, right in zip(
        jax.tree.leaves(first[:3]), jax.tree.leaves(second[:3]), strict=True
    ):
        np.testing.assert_array_equal(left, right[chosen])


def test_without_self_conditioning_there_is_no_first_pass():
    ((_, _, _, previous),) = watched(batch_of(tiny.fit(), 4))
    assert not previous.known.any()


def test_the_first_pass_gives_each_sample_its_own_latents_without_gradient():
    model = tiny.fit()
    training = Training(self_conditioning=0.75, self_conditioning_period=4)
    inputs = tiny.clip(model, 8), jnp.linspace(-1.0, 1.0, 8), tiny.context(8)

    @jax.jit
    def latents(params):
        return first_pass(params, *inputs, model, training)

    params = tiny.random_params(model)
    got = latents(params)
    _, expected = tiny.run(model, params, *inputs)
    known = np.array([1, 1, 1, 0] * 2, bool)
    assert got.known.tolist() == known.tolist()
    np.testing.assert_allclose(
        got.value[known], expected.value[known], rtol=1e-4, atol=1e-4
    )
    gradient = jax.jit(jax.grad(lambda p: latents(p).value.sum()))(params)
    assert not any(leaf.any() for leaf in jax.tree.leaves(gradient))


def test_captions_are_dropped_by_chance_of_the_sample_s_number():
    model = tiny.fit(frames=1, height=2, width=2, pad_height=(0, 0))
    training = dataclasses.replace(PLAIN, label_dropout=0.1)
    batch = batch_of(model, 4000, first=100)

    def dropped(batch, **keys):
        ((_, _, context, _),) = watched(batch, training, **keys)
        return np.asarray(context.drop_text)

    drop = dropped(batch)
    assert abs(drop.mean() - 0.1) < 0.02
    assert abs(drop[::2].mean() - drop[1::2].mean()) < 0.03
    order = np.random.default_rng(0).permutation(4000)
    numbered = {"sample": batch["sample"][order]}
    np.testing.assert_array_equal(dropped(batch | numbered), drop[order])
    other = jax.random.key(1)
    np.testing.assert_array_equal(dropped(batch, step_key=other), drop)
    assert (dropped(batch, key=other) != drop).mean() > 0.1


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_no_or_every_caption_may_be_dropped(share):
    training = dataclasses.replace(PLAIN, label_dropout=share)
    ((_, _, context, _),) = watched(batch_of(tiny.fit(), 8), training)
    assert (context.drop_text == bool(share)).all()


# Images that are not videos.


def test_images_that_are_not_videos_are_one_frame_with_their_own_sigma_in():
    edm = EDM(sigma_in=4.0, images_as_videos=False, image_sigma_in=1.5)
    batch = batch_of(tiny.fit(), 6)
    training = dataclasses.replace(PLAIN, videos=2, images=1)
    videos, images = watched(batch, training, edm)
    assert videos[0].shape[:2] == (4, 2) and images[0].shape[:2] == (2, 1)
    for call, kind, chosen in [(videos, edm, [0, 1, 3, 4]), (images, None, [2, 5])]:
        kind = kind or edm.for_images()
        ((noisy, c_noise, context, _),) = watched(
            take(batch, chosen)
            | {"video": batch["video"][jnp.array(chosen), : call[0].shape[1]]},
            edm=dataclasses.replace(edm, sigma_in=kind.sigma_in, images_as_videos=True),
        )
        np.testing.assert_allclose(call[0], noisy, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(call[1], c_noise)
        np.testing.assert_array_equal(call[2].text, context.text)


def test_losses_of_images_that_are_not_videos_come_after_the_videos():
    edm = EDM(images_as_videos=False)
    losses, sigma, is_image = losses_of(batch_of(tiny.fit(), 4), edm=edm)
    assert is_image.tolist() == [False, False, True, True]
    assert np.isfinite(losses).all() and len(np.unique(sigma)) == 4


# The update.

SETTINGS = Optimizer(steps=100, name="adam", warmup_steps=0, learning_rate=1e-2)
HALF = Training(self_conditioning=0.5, self_conditioning_period=2, label_dropout=0.5)


@functools.cache
def compiled_step(model, training):
    options = dict(model=model, edm=EDM(), optimizer=SETTINGS, training=training)
    return jax.jit(functools.partial(train_step, **options))


def state_of(params):
    params = jax.tree.map(jnp.asarray, params)
    state = SETTINGS.transform().init(params)
    step, norms = jnp.zeros((), jnp.int32), jnp.zeros(SETTINGS.spike_window)
    return TrainState(step, params, state, params, norms=norms)


def test_two_microbatches_are_one_batch():
    batch, state = batch_of(tiny.fit(), 8), state_of(LINE.params)
    halves = dataclasses.replace(HALF, microbatches=2)
    whole, parts = (
        compiled_step(LINE, training)(state, batch, KEY) for training in (HALF, halves)
    )
    assert whole[0].params["memory"] != state.params["memory"]
    # The first moments are the gradients, up to a factor.
    for part in (whole, parts):
        samples = part[1].pop("samples")
        np.testing.assert_array_equal(np.sort(samples["number"].ravel()), np.arange(8))
    leaves = jax.tree.leaves(whole), jax.tree.leaves(parts)
    for left, right in zip(*leaves, strict=True):
        np.testing.assert_allclose(right, left, rtol=1e-3, atol=1e-4)


def test_loss_bins_add_up_to_the_loss():
    batch = batch_of(tiny.fit(), 8)
    _, metrics = compiled_step(LINE, HALF)(state_of(LINE.params), batch, KEY)
    options = dict(model=LINE, edm=EDM(), training=HALF)
    losses, sigma, is_image, _ = sample_losses(
        LINE.params, batch, StepKeys(KEY, KEY), **options
    )
    sums, counts = (np.zeros((2, len(BIN_EDGES) + 1)) for _ in range(2))
    for loss, level, image in zip(losses, sigma, is_image, strict=True):
        place = int(image), sum(float(level) > edge for edge in BIN_EDGES)
        sums[place] += loss
        counts[place] += 1
    assert (counts > 0).sum() > 3
    np.testing.assert_array_equal(metrics["loss_count"], counts)
    np.testing.assert_allclose(metrics["loss_sum"], sums, rtol=1e-4)
    np.testing.assert_allclose(metrics["loss"], losses.mean(), rtol=1e-4)
    np.testing.assert_allclose(metrics["loss"], sums.sum() / counts.sum(), rtol=1e-4)


def test_a_step_counts_itself_and_moves_the_average():
    state, batch = state_of(LINE.params), batch_of(tiny.fit(), 4)
    for number in range(3):
        after, _ = compiled_step(LINE, HALF)(state, batch, KEY)
        decay = float(SETTINGS.ema_decay(jnp.array(number + 1)))
        for name, value in after.params.items():
            expected = decay * state.ema[name] + (1 - decay) * value
            np.testing.assert_allclose(after.ema[name], expected, rtol=1e-5)
        state = after
        assert state.step == number + 1


def test_dropout_is_another_in_every_step():
    batch = batch_of(tiny.fit(), 4)

    def loss(number, dropout):
        state = state_of(LINE.params | {"dropout": dropout})
        state = state.replace(step=jnp.array(number))
        return float(compiled_step(LINE, HALF)(state, batch, KEY)[1]["loss"])

    assert loss(0, 1.0) == loss(0, 1.0) != loss(1, 1.0)
    assert loss(0, 0.0) == loss(1, 0.0)


def test_the_loss_of_one_batch_falls():
    model = tiny.fit(global_layers=0)
    training = dataclasses.replace(HALF, label_dropout=0.0)
    step, batch = compiled_step(model, training), batch_of(model, 4)
    state, history = state_of(tiny.fresh_params(model)), []
    for _ in range(30):
        state, metrics = step(state, batch, KEY)
        history.append(float(metrics["loss"]))
    assert history[-1] < 0.5 * history[0], history


@pytest.mark.parametrize("name", CONFIGS)
def test_a_step_of_the_config_keeps_the_shapes_of_its_state(name):
    experiment = tiny.experiment(name)
    state = nn.unbox(abstract_state(experiment))
    batch = abstract_batch(experiment)
    after, metrics = jax.eval_shape(train_step_of(experiment), state, batch, KEY)
    assert after == state
    assert metrics["loss"].shape == metrics["grad_norm"].shape == ()
    assert metrics["loss_sum"].shape == metrics["loss_count"].shape == (2, 5)


# The denoiser for sampling.


def test_the_denoiser_is_the_preconditioned_network():
    model, edm = tiny.fit(), EDM(sigma_in=3.0)
    params, about = tiny.random_params(model), tiny.context()
    x, sigma = tiny.clip(model), jnp.array([0.1, 5.0])
    denoise = jax.jit(make_denoise(model, params, edm, about))
    got, carry = denoise(x, sigma, model.no_latents(2))
    level = sigma[:, None, None, None, None]
    inputs = edm.c_in(level) * x
    output, latents = tiny.run(model, params, inputs, edm.c_noise(sigma), about)
    expected = edm.c_skip(level) * x + edm.c_out(level) * output
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(carry.value, latents.value, rtol=1e-4, atol=1e-4)
    second, _ = denoise(x, sigma, carry)
    assert jnp.abs(second - got).max() > 0.01


def test_guidance_of_the_network_compares_with_the_dropped_caption():
    model, edm = tiny.fit(), EDM()
    params, about = tiny.random_params(model), tiny.context()
    x, sigma = tiny.clip(model), jnp.array([0.1, 5.0])

    def denoised(about):
        inputs = edm.c_in(broadcast(sigma, x)) * x
        output, _ = tiny.run(model, params, inputs, edm.c_noise(sigma), about)
        return edm.denoised(x, output, sigma)

    with_text = denoised(about)
    without = denoised(about.replace(drop_text=jnp.ones(2, bool)))
    drop = jnp.array([False, True, False, True])
    both = make_denoise(model, params, edm, duplicate(about).replace(drop_text=drop))
    guided = jax.jit(classifier_free_guidance(both, 2.0))
    got, carry = guided(x, sigma, model.no_latents(4))
    expected = with_text + 2 * (with_text - without)
    assert jnp.abs(with_text - without).max() > 0.01
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
    assert carry.value.shape[0] == 4
