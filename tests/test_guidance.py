"""Classifier-free guidance: both estimates come from one call of twice the batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from snapvideo_jax.diffusion import (
    EDM,
    Sampler,
    classifier_free_guidance,
    initial_noise,
    sample,
    twice,
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
    """The conditional samples, then the same ones unconditionally."""
    return denoiser(jnp.concatenate([OFFSETS, jnp.zeros(BATCH)]))


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
        return sample(denoise, start, carry, keys, edm, sampler)

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


def test_twice_stacks_every_leaf_on_itself():
    tree = {"a": jnp.arange(2), "b": (jnp.ones((2, 3)),)}
    doubled = twice(tree)
    assert doubled["a"].tolist() == [0, 1, 0, 1]
    assert doubled["b"][0].shape == (4, 3)
