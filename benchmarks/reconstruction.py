"""Reconstruction guidance with a known solution: the paper's rule and ours.

    python benchmarks/reconstruction.py

Clips are Gaussian: 4 frames of 12 pixels, correlated in time (0.9 a frame) and in space
(0.8 a pixel), so the unknown frames given the known ones have a mean and a variance in
closed form. They are sampled (64 Heun steps, 1,000 samples) with the exact denoiser,
and with a small network trained here, whose Jacobian only approximates a denoiser's.
Prints the error of the mean, relative to the size of the mean, and the ratio of the
variances; an exact rule has 0 and 1.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from snapvideo_jax.diffusion import (
    EDM,
    Reconstruction,
    Sampler,
    initial_noise,
    is_known,
    reconstruct,
    sample,
)

FRAMES, PIXELS, SAMPLES = 4, 12, 1000
SIZE = FRAMES * PIXELS
HIDDEN, STEPS, BATCH = 256, 4000, 256
EDM_HERE = EDM(sigma_in=2.0, p_mean=-0.5, p_std=1.5)
KNOWN = ((0,), (0, 3), (0, 1))
RULES = [Reconstruction(weight, "paper") for weight in (1.0, 2.0, 4.0, 8.0)]
RULES += [Reconstruction(products=number) for number in (1, 2, 3, 6)]


def covariance() -> np.ndarray:
    def along(size, correlation):
        number = np.arange(size)
        return correlation ** np.abs(number[:, None] - number)

    return np.kron(along(FRAMES, 0.9), along(PIXELS, 0.8))


def exact(cov: np.ndarray):
    """``E[x | x_sigma]``."""
    values, vectors = (jnp.asarray(x, jnp.float32) for x in np.linalg.eigh(cov))

    def denoise(x, sigma, carry):
        signal = values[None] / EDM_HERE.sigma_in
        gain = signal / (signal / EDM_HERE.sigma_in + sigma[:, None] ** 2)
        flat = x.reshape(-1, SIZE)
        return ((flat @ vectors * gain) @ vectors.T).reshape(x.shape), carry

    return denoise


def network(params, x, c_noise):
    """``F``: two hidden layers, which also read the noise level, and a linear path."""
    phase = c_noise[:, None] * jnp.arange(1, 9)
    hidden = jnp.concatenate([x, jnp.sin(phase), jnp.cos(phase)], axis=1)
    for name in ("first", "second"):
        hidden = jax.nn.silu(hidden @ params[name] + params[f"{name}_bias"])
    return hidden @ params["last"] + x @ params["past"]


def trained(cov: np.ndarray):
    """A denoiser trained on the same clips, and its final loss."""
    edm, keys = EDM_HERE, jax.random.split(jax.random.key(0), 2)
    params = {
        "first": jax.random.normal(keys[0], (SIZE + 16, HIDDEN)) / 8,
        "first_bias": jnp.zeros(HIDDEN),
        "second": jax.random.normal(keys[1], (HIDDEN, HIDDEN)) / 16,
        "second_bias": jnp.zeros(HIDDEN),
        "last": jnp.zeros((HIDDEN, SIZE)),
        "past": jnp.zeros((SIZE, SIZE)),
    }
    root = jnp.asarray(np.linalg.cholesky(cov), jnp.float32)
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, STEPS))

    def apply(params, noisy, sigma):
        level = edm.c_in(sigma)[:, None]
        return network(params, level * noisy, edm.c_noise(sigma))

    def step(state, number):
        params, moments = state
        keys = jax.random.split(jax.random.fold_in(jax.random.key(1), number), 3)
        clip = jax.random.normal(keys[0], (BATCH, SIZE)) @ root.T
        eps = jax.random.normal(keys[1], clip.shape)
        sigma = edm.training_sigma(jax.random.split(keys[2], BATCH))
        noisy = edm.corrupt(clip, eps, sigma[:, None])

        def loss(params):
            return edm.loss(apply(params, noisy, sigma), clip, eps, sigma).mean()

        value, gradient = jax.value_and_grad(loss)(params)
        changes, moments = optimizer.update(gradient, moments)
        return (optax.apply_updates(params, changes), moments), value

    state = params, optimizer.init(params)
    (params, _), losses = jax.jit(
        lambda state: jax.lax.scan(step, state, jnp.arange(STEPS))
    )(state)

    def denoise(x, sigma, carry):
        flat = x.reshape(-1, SIZE)
        clip = edm.denoised(flat, apply(params, flat, sigma), sigma)
        return clip.reshape(x.shape), carry

    return denoise, float(losses[-200:].mean())


def measured(denoise, cov, known, settings) -> tuple[float, float]:
    """Relative error of the mean, and the ratio of the variances."""
    frames = is_known(known, FRAMES)
    mask = np.repeat(np.asarray(frames), PIXELS)
    clip = np.linalg.cholesky(cov) @ np.random.default_rng(0).normal(size=SIZE)
    weights = cov[np.ix_(~mask, mask)] @ np.linalg.inv(cov[np.ix_(mask, mask)])
    mean = weights @ clip[mask]
    inside = cov[np.ix_(~mask, ~mask)] - weights @ cov[np.ix_(mask, ~mask)]

    given = jnp.asarray(clip, jnp.float32).reshape(1, FRAMES, PIXELS)
    guided = reconstruct(denoise, given, frames, EDM_HERE, settings)
    keys = jax.random.split(jax.random.key(2), SAMPLES)
    start = initial_noise(keys, (FRAMES, PIXELS), EDM_HERE)
    draw = jax.jit(lambda x: sample(guided, x, (), keys, EDM_HERE, Sampler(64))[0])
    found = np.asarray(draw(start), np.float64).reshape(SAMPLES, SIZE)[:, ~mask]
    error = np.linalg.norm(found.mean(axis=0) - mean) / np.linalg.norm(mean)
    return float(error), float(found.var(axis=0).sum() / np.trace(inside))


def main() -> None:
    cov = covariance()
    learnt, loss = trained(cov)
    print(f"the network's loss after {STEPS} steps: {loss:.3f}")
    print("| known | rule | exact: mean, variance | network: mean, variance |")
    print("|---|---|---|---|")
    for known, settings in itertools.product(KNOWN, RULES):
        is_paper = settings.rule == "paper"
        named = f"w_r = {settings.weight:g}" if is_paper else f"{settings.products}"
        cells = [
            "{:.3f}, {:.3f}".format(*measured(denoise, cov, known, settings))
            for denoise in (exact(cov), learnt)
        ]
        print(f"| {known} | {settings.rule}, {named} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
