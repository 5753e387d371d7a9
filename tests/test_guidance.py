"""Guidance: wrappers of a denoiser, each by itself, and all of them together."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xla_flags

from snapvideo_jax.diffusion import (
    EDM,
    Guidance,
    Sampler,
    Stepwise,
    autoguidance,
    classifier_free_guidance,
    duplicate,
    dynamic_thresholding,
    initial_noise,
    interleave,
    oscillation,
    sample,
    sigma_schedule,
    with_guidance,
)

BATCH = 3
OFFSETS = jnp.array([0.5, -0.25, 1.0])
"""What the context of each sample adds to its estimate; unconditionally nothing."""


def gain(sigma):
    return 1 / (1 + sigma**2)


def denoiser(offsets):
    """A denoiser of ``len(offsets)`` clips; its carry counts calls per sample."""

    def denoise(x, sigma, carry):
        assert x.shape[0] == sigma.shape[0] == carry.shape[0] == len(offsets)
        return gain(sigma)[:, None] * x + offsets[:, None], carry + 1

    return denoise


def conditional():
    return denoiser(OFFSETS)


def joint():
    """Every sample conditional, followed by its unconditional copy."""
    return denoiser(interleave(OFFSETS, jnp.zeros(BATCH)))


def inputs():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(BATCH, 5)), jnp.float32)
    return x, jnp.array([0.1, 1.0, 10.0])


def test_weight_0_is_the_conditional_model_to_the_bit():
    x, sigma = inputs()
    guided, _ = classifier_free_guidance(joint(), 0.0)(x, sigma, jnp.zeros(2 * BATCH))
    plain, _ = conditional()(x, sigma, jnp.zeros(BATCH))
    assert jnp.array_equal(guided, plain)


@pytest.mark.parametrize("weight", [-0.5, 1.0, 7.5])
def test_the_estimate_is_pushed_off_the_unconditional_one(weight):
    x, sigma = inputs()
    guide = classifier_free_guidance(joint(), weight)
    guided, _ = guide(x, sigma, jnp.zeros(2 * BATCH))
    unconditional = np.asarray(gain(sigma))[:, None] * x
    with_text = unconditional + OFFSETS[:, None]
    expected = with_text + weight * (with_text - unconditional)
    np.testing.assert_allclose(guided, expected, rtol=1e-5, atol=1e-6)
    other = (1 + weight) * with_text - weight * unconditional
    np.testing.assert_allclose(guided, other, rtol=1e-5, atol=1e-5)


def test_a_guided_call_is_one_call_with_a_carry_of_twice_the_batch():
    x, sigma = inputs()
    calls = []

    def denoise(x, sigma, carry):
        calls.append(x.shape)
        return joint()(x, sigma, carry)

    start = jnp.arange(2.0 * BATCH)
    _, carry = classifier_free_guidance(denoise, 2.0)(x, sigma, start)
    assert calls == [(2 * BATCH, 5)]
    assert jnp.array_equal(carry, start + 1)


def test_a_sampled_clip_with_weight_0_is_the_conditional_one_to_the_bit():
    keys, edm, sampler = jax.random.split(jax.random.key(0), BATCH), EDM(), Sampler(5)
    start = initial_noise(keys, (5,), edm)

    def draw(denoise, carry):
        program = functools.partial(sample, denoise, edm=edm, sampler=sampler)
        jitted = jax.jit(program, compiler_options=xla_flags.FUSED)
        return jitted(start, carry, keys)

    plain, _ = draw(conditional(), jnp.zeros(BATCH))
    guided, carry = draw(classifier_free_guidance(joint(), 0.0), jnp.zeros(2 * BATCH))
    assert jnp.array_equal(guided, plain)
    assert carry.shape == (2 * BATCH,) and (carry == 2 * 5 - 1).all()


def test_a_weight_may_be_an_argument_of_a_compiled_function():
    x, sigma = inputs()

    @jax.jit
    def guided(weight):
        guide = classifier_free_guidance(joint(), weight)
        return guide(x, sigma, jnp.zeros(2 * BATCH))[0]

    difference = guided(2.0) - guided(1.0)
    expected = jnp.broadcast_to(OFFSETS[:, None], x.shape)
    np.testing.assert_allclose(difference, expected, rtol=1e-4, atol=1e-5)


def test_pairs_stand_side_by_side_in_every_leaf():
    tree = {"a": jnp.arange(2), "b": (jnp.ones((2, 3)),)}
    other = {"a": jnp.array([5, 6]), "b": (jnp.zeros((2, 3)),)}
    paired = interleave(tree, other)
    assert paired["a"].tolist() == [0, 5, 1, 6]
    assert paired["b"][0][:, 0].tolist() == [1, 0, 1, 0]
    assert duplicate(tree)["a"].tolist() == [0, 0, 1, 1]


# --- Intervals and oscillation -------------------------------------------------------


def test_outside_of_its_interval_there_is_no_guidance():
    x, sigma = inputs()  # 0.1, 1 and 10
    guide = classifier_free_guidance(joint(), 3.0, interval=(0.5, 5.0))
    guided, _ = guide(x, sigma, jnp.zeros(2 * BATCH))
    everywhere, _ = classifier_free_guidance(joint(), 3.0)(
        x, sigma, jnp.zeros(2 * BATCH)
    )
    plain, _ = conditional()(x, sigma, jnp.zeros(BATCH))
    assert jnp.array_equal(guided[::2], plain[::2])
    assert jnp.array_equal(guided[1], everywhere[1])
    assert not jnp.allclose(guided[1], plain[1])


@pytest.mark.parametrize(
    "after, steps, expected",
    [
        (3, 8, [9, 9, 9, 1, 9, 1, 9, 1]),
        (0, 5, [1, 9, 1, 9, 1]),
        (1, 2, [9, 1]),
        (10, 4, [9, 9, 9, 9]),
    ],
)
def test_the_weight_oscillates_as_the_list_says(after, steps, expected):
    assert oscillation(9.0, 1.0, after, steps).tolist() == expected


@pytest.mark.parametrize("solver, calls", [("heun", 2), ("euler", 1), ("dpmpp_2m", 1)])
def test_both_slopes_of_a_step_have_its_weight(solver, calls):
    """Recorded from within the sampler, by a model whose difference is 1."""
    steps, edm = 6, EDM()

    def apart(x, sigma, carry):
        return jnp.stack([jnp.ones_like(x[::2]), jnp.zeros_like(x[::2])], 1).reshape(
            x.shape
        ), carry

    guidance = Guidance(oscillate=True, after=2, low=0.5)
    guided = with_guidance(apart, guidance, steps, weight=4.0)

    def watched(index):
        def denoise(x, sigma, carry):
            count, seen = carry
            clip, _ = guided.at(index)(x, sigma, ())  # 1 + g
            return x, (count + 1, seen.at[count].set(clip[0, 0] - 1))

        return denoise

    sampler = Sampler(steps, solver)
    carry = (jnp.array(0), jnp.zeros(sampler.calls))
    keys = jax.random.split(jax.random.key(0), 2)
    _, (_, seen) = sample(
        Stepwise(watched), jnp.ones((2, 3)), carry, keys, edm, sampler
    )
    weights = [4, 4, 0.5, 4, 0.5, 4]
    expected = [weight for weight in weights[:-1] for _ in range(calls)] + weights[-1:]
    assert seen.tolist() == expected


def test_without_oscillation_or_weight_nothing_is_stepwise():
    for guidance, weight in ((Guidance(), 2.0), (Guidance(oscillate=True), None)):
        made = with_guidance(conditional(), guidance, 4, weight)
        assert not isinstance(made, Stepwise)
    assert isinstance(
        with_guidance(joint(), Guidance(oscillate=True), 4, 2.0), Stepwise
    )


# --- Thresholding --------------------------------------------------------------------


def estimate(*rows):
    """A denoiser that always says ``rows``."""
    clip = jnp.asarray(rows, jnp.float32)
    return lambda x, sigma, carry: (clip, carry + 1)


def thresholded(quantile, *rows):
    denoise = dynamic_thresholding(estimate(*rows), quantile)
    clip, carry = denoise(jnp.zeros((len(rows), 1)), jnp.ones(len(rows)), jnp.array(0))
    assert carry == 1
    return np.asarray(clip)


@pytest.mark.parametrize("quantile", [0.1, 0.9, 1.0])
def test_values_in_range_are_left_alone(quantile):
    rows = np.random.default_rng(0).uniform(-1, 1, (3, 40)).astype(np.float32)
    rows[0, 0], rows[1, 1] = 1.0, -1.0
    np.testing.assert_array_equal(thresholded(quantile, *rows), rows)


def test_each_sample_is_scaled_by_its_own_quantile():
    rows = np.random.default_rng(0).normal(size=(3, 200)) * [[0.2], [2.0], [8.0]]
    got = thresholded(0.9, *rows)
    for row, ours in zip(rows, got, strict=True):
        scale = max(1.0, np.quantile(np.abs(row), 0.9))
        expected = np.clip(row, -scale, scale) / scale
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)
    assert np.abs(got).max() <= 1


def test_few_values_out_of_range_are_cut():
    row = np.full(100, 0.5)
    row[:3] = -4
    (got,) = thresholded(0.9, row)
    assert (got[:3] == -1).all() and (got[3:] == 0.5).all()


# --- Autoguidance --------------------------------------------------------------------


@pytest.mark.parametrize("weight", [0.0, 1.0, 1.5, 3.0])
def test_autoguidance_pushes_off_the_worse_model(weight):
    x, sigma = inputs()
    better, worse = conditional(), denoiser(OFFSETS - 0.25)
    guide = autoguidance(better, worse, weight)
    start = (jnp.zeros(BATCH), jnp.full(BATCH, 10.0))
    got, (own, other) = guide(x, sigma, start)
    plain, _ = better(x, sigma, jnp.zeros(BATCH))
    np.testing.assert_allclose(got, plain + (weight - 1) * 0.25, rtol=1e-5, atol=1e-6)
    assert (own == 1).all() and (other == 11).all()
    if weight == 1.0:
        assert jnp.array_equal(got, plain)


# --- All together --------------------------------------------------------------------


def test_all_of_it_is_done_from_the_inside_out():
    x, sigma = inputs()
    guidance = Guidance(
        interval=(0.5, 5.0), threshold=0.8, autoguidance=1.5, negative_prompt="unused"
    )
    worse = denoiser(OFFSETS - 0.25)
    guided = with_guidance(joint(), guidance, 4, weight=3.0, guide=worse)
    got, carry = guided(x, sigma, (jnp.zeros(2 * BATCH), jnp.zeros(BATCH)))
    assert carry[0].shape == (2 * BATCH,) and (carry[1] == 1).all()

    unconditional = np.asarray(gain(sigma))[:, None] * np.asarray(x, np.float64)
    offsets = np.asarray(OFFSETS)[:, None]
    inside = np.array([[0.0], [3.0], [0.0]])
    estimate = unconditional + offsets * (1 + inside)
    estimate += 0.5 * (estimate - (unconditional + offsets - 0.25))
    scale = np.maximum(1, np.quantile(np.abs(estimate), 0.8, axis=1, keepdims=True))
    expected = np.clip(estimate, -scale, scale) / scale
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_the_interval_is_of_the_ladders_noise_levels():
    """Half of the steps of a run are guided by half of the ladder."""
    edm, sampler = EDM(sigma_in=4.0), Sampler(8, "euler")
    levels = np.asarray(sigma_schedule(edm, 8))
    keys = jax.random.split(jax.random.key(0), BATCH)
    start = initial_noise(keys, (5,), edm)

    def draw(*interval):
        guided = with_guidance(joint(), Guidance(interval=interval), 8, 2.0)
        return sample(guided, start, jnp.zeros(2 * BATCH), keys, edm, sampler)[0]

    plain, _ = sample(conditional(), start, jnp.zeros(BATCH), keys, edm, sampler)
    # No step has a level in this interval, so nothing is guided.
    gap = (
        float(levels[3] * 0.6 + levels[2] * 0.4),
        float(levels[3] * 0.4 + levels[2] * 0.6),
    )
    assert jnp.array_equal(draw(*gap), plain)
    assert not jnp.allclose(draw(float(levels[3]), 80.0), plain, atol=1e-3)


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            dict(interval=(2.0, 1.0)),
            r"interval=\(2.0, 1.0\) is not a range of noise levels",
        ),
        (dict(interval=(-1.0, 1.0)), r"interval=\(-1.0, 1.0\) is not a range"),
        (dict(interval=(float("nan"), 1.0)), "is not a range"),
        (dict(threshold=1.01), "threshold=1.01 is not a quantile; use one above 0"),
        (dict(threshold=-0.1), "threshold=-0.1 is not a quantile"),
        (dict(after=-1), "guidance.after=-1 is below 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Guidance(**changes)
