"""The samplers on distributions whose denoiser is known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from snapvideo_jax.diffusion import (
    EDM,
    SOLVERS,
    Sampler,
    Stepwise,
    initial_noise,
    sample,
    sigma_schedule,
)

CALLS = {
    "heun": lambda steps: 2 * steps - 1,
    "euler": lambda steps: steps,
    "dpmpp_2m": lambda steps: steps,
    "adams_bashforth": lambda steps: steps,
}
ORDERS = {"heun": 2, "euler": 1, "dpmpp_2m": 2, "adams_bashforth": 2}


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def gaussian_denoiser(edm, std):
    """``E[x | x_sigma]`` for data from ``N(0, std^2)``."""

    def denoise(x, sigma, carry):
        signal = std**2 / edm.sigma_in
        gain = signal / (signal / edm.sigma_in + sigma**2)
        return gain[:, None] * x, carry

    return denoise


def mixture_denoiser(edm, weights, means, std):
    """``E[x | x_sigma]`` for a mixture of Gaussians of equal ``std``."""

    def denoise(x, sigma, carry):
        variance = (std / edm.sigma_in) ** 2 + sigma**2
        offset = x[:, None] - means[None] / edm.sigma_in
        logits = jnp.log(weights)[None] - (offset**2).sum(-1) / (2 * variance[:, None])
        gain = std**2 / edm.sigma_in / variance
        each = means[None] + gain[:, None, None] * offset
        return jnp.einsum("bk,bkc->bc", jax.nn.softmax(logits), each), carry

    return denoise


def run(denoise, start, edm, sampler, noise_keys=None):
    """The samples, without the carry."""
    noise_keys = keys(len(start)) if noise_keys is None else noise_keys
    step = jax.jit(lambda start, k: sample(denoise, start, (), k, edm, sampler)[0])
    return step(start, noise_keys)


def test_noise_levels_follow_the_formula_and_end_at_zero():
    edm = EDM(sigma_min=0.01, sigma_max=50.0, rho=3.0)
    levels = sigma_schedule(edm, 5)
    high, low = 50 ** (1 / 3), 0.01 ** (1 / 3)
    expected = [(high + i / 4 * (low - high)) ** 3 for i in range(5)] + [0.0]
    np.testing.assert_allclose(levels, expected, rtol=1e-5)


@pytest.mark.parametrize("steps", [2, 40, 256])
def test_noise_levels_fall_from_sigma_max_to_sigma_min_then_zero(steps):
    levels = np.asarray(sigma_schedule(EDM(), steps))
    assert levels.shape == (steps + 1,) and levels[-1] == 0
    np.testing.assert_allclose(levels[[0, -2]], [80, 0.002], rtol=1e-5)
    assert (np.diff(levels) < 0).all()


@pytest.mark.parametrize("sigma_in", [1.0, 4.0, 32.0])
@pytest.mark.parametrize("solver", SOLVERS)
def test_the_solver_has_its_order(solver, sigma_in):
    # x(sigma) grows as sqrt(std^2 / sigma_in^2 + sigma^2). So small a sigma_min makes
    # nothing of the last step, which is Euler's whatever the solver.
    std, steps = 0.7, [64, 128, 256, 512]
    with jax.enable_x64(True):
        edm = EDM(sigma_in=sigma_in, sigma_min=1e-7, sigma_max=20.0)
        start = jnp.array([[20.0, -7.0]])
        exact = start * std / np.sqrt((std / sigma_in) ** 2 + edm.sigma_max**2)
        denoise = gaussian_denoiser(edm, std)
        results = [run(denoise, start, edm, Sampler(n, solver)) for n in steps]
        errors = [float(jnp.abs(x / exact - 1).max()) for x in results]
    assert errors[-1] < 0.1
    slope = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert abs(-slope - ORDERS[solver]) < 0.3, (slope, errors)


def by_hand(solver, levels, std, edm, x):
    """The same run in float64 NumPy, each solver by its textbook formula."""

    def clean(x, sigma):
        return std**2 / edm.sigma_in**2 / ((std / edm.sigma_in) ** 2 + sigma**2) * x

    before = None
    for i in range(len(levels) - 2):
        here, there = levels[i], levels[i + 1]
        estimate = clean(x, here)
        slope = (x - estimate) / here
        if solver == "dpmpp_2m":  # Alg. 2 of arXiv 2211.01095, alpha = 1
            mixed, h = estimate, np.log(here / there)
            if before is not None:
                ratio = np.log(levels[i - 1] / here) / h
                mixed = (1 + 1 / (2 * ratio)) * estimate - before / (2 * ratio)
            x, before = there / here * x - (np.exp(-h) - 1) * mixed, estimate
        else:
            h, mixed = there - here, slope
            if before is not None:
                ratio = h / (here - levels[i - 1])
                mixed = (1 + ratio / 2) * slope - ratio / 2 * before
            x, before = x + h * mixed, slope
    return clean(x, levels[-2]) * edm.sigma_in


@pytest.mark.parametrize("steps", [1, 2, 3, 9])
@pytest.mark.parametrize("solver", ["dpmpp_2m", "adams_bashforth"])
def test_a_multi_step_solver_is_that_of_its_paper(solver, steps):
    edm, start = EDM(sigma_in=4.0), np.array([[70.0, -30.0, 5.0]])
    with jax.enable_x64(True):
        levels = np.asarray(sigma_schedule(edm, steps))
        denoise = gaussian_denoiser(edm, 0.6)
        got = run(denoise, jnp.asarray(start), edm, Sampler(steps, solver))
    expected = by_hand(solver, levels, 0.6, edm, start)
    np.testing.assert_allclose(got, expected, rtol=1e-9)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_single_step_is_the_estimate_at_sigma_max(solver):
    edm, start = EDM(sigma_in=4.0), jnp.array([[70.0, -30.0]])
    denoise = gaussian_denoiser(edm, 0.6)
    got = run(denoise, start, edm, Sampler(1, solver))
    expected, _ = denoise(start, jnp.array([edm.sigma_max]), ())
    np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.parametrize("solver", SOLVERS)
def test_memory_does_not_grow_with_the_steps(solver):
    edm, start = EDM(), jnp.ones((2, 1000))

    def bytes_of(steps):
        sampler, denoise = Sampler(steps, solver), gaussian_denoiser(edm, 1.0)
        call = jax.jit(lambda x: sample(denoise, x, (), keys(2), edm, sampler)[0])
        return call.lower(start).compile().memory_analysis().temp_size_in_bytes

    few, many = bytes_of(10), bytes_of(300)
    # The noise levels themselves are numbers: a few for each step, and no clips.
    assert many - few < 300 * 64 < start.nbytes * 300


def test_all_calls_of_a_step_use_the_denoiser_of_that_step():
    def at(index):
        return lambda x, sigma, carry: (x, carry.at[index].add(1))

    for solver, steps, expected in (
        ("heun", 4, [2, 2, 2, 1]),
        ("dpmpp_2m", 4, [1, 1, 1, 1]),
        ("euler", 1, [1]),
    ):
        _, calls = sample(
            Stepwise(at),
            jnp.ones((2, 3)),
            jnp.zeros(steps, int),
            keys(2),
            EDM(),
            Sampler(steps, solver),
        )
        assert calls.tolist() == expected


@pytest.mark.parametrize("sigma_in", [1.0, 4.0])
def test_40_heun_steps_land_on_a_mixture_in_its_proportions(sigma_in):
    weights = np.array([0.6, 0.3, 0.1])
    means = np.array([[1.0, 1.0], [-1.0, 0.5], [0.0, -1.2]])
    edm, std = EDM(sigma_in=sigma_in), 0.05
    start = initial_noise(keys(20_000), (2,), edm)
    denoise = mixture_denoiser(edm, jnp.asarray(weights), jnp.asarray(means), std)
    samples = np.asarray(run(denoise, start, edm, Sampler(40)))
    distance = np.linalg.norm(samples[:, None] - means[None], axis=-1)
    assert (distance.min(axis=1) < 6 * std).mean() > 0.99
    nearest = distance.argmin(axis=1)
    shares = np.bincount(nearest, minlength=3) / len(samples)
    np.testing.assert_allclose(shares, weights, atol=0.02)
    for mode, mean in enumerate(means):
        own = samples[nearest == mode]
        np.testing.assert_allclose(own.mean(axis=0), mean, atol=0.03)
        np.testing.assert_allclose(own.std(axis=0), std, rtol=0.2)


@pytest.mark.parametrize("sigma_in", [1.0, 4.0])
def test_churn_keeps_the_distribution(sigma_in):
    edm, std = EDM(sigma_in=sigma_in), 0.8
    start = initial_noise(keys(20_000), (1,), edm)
    sampler = Sampler(steps=128, churn=20.0)
    denoise = gaussian_denoiser(edm, std)
    samples = run(denoise, start, edm, sampler)
    straight = run(denoise, start, edm, Sampler(steps=128))
    correlation = np.corrcoef(samples[:, 0], straight[:, 0])[0, 1]
    assert abs(correlation) < 0.5, "churn draws other samples than the start's"
    np.testing.assert_allclose(samples.var(), std**2, rtol=0.05)
    np.testing.assert_allclose(samples.mean(), 0, atol=0.03)


def test_churn_outside_its_range_of_noise_levels_does_nothing():
    edm = EDM()
    start = initial_noise(keys(5), (3,), edm)
    denoise = gaussian_denoiser(edm, 1.0)
    straight = run(denoise, start, edm, Sampler(steps=8))
    idle = Sampler(steps=8, churn=10.0, churn_min=100.0)
    busy = Sampler(steps=8, churn=10.0, churn_min=1.0, churn_max=100.0)
    np.testing.assert_allclose(run(denoise, start, edm, idle), straight, rtol=1e-6)
    assert not np.allclose(run(denoise, start, edm, busy), straight, rtol=1e-2)


def test_the_start_has_the_deviation_sigma_max():
    start = initial_noise(keys(1000), (4, 5), EDM(sigma_max=7.0))
    assert start.shape == (1000, 4, 5)
    np.testing.assert_allclose(start.std(), 7.0, rtol=0.02)


@pytest.mark.parametrize("churn", [0.0, 5.0])
def test_a_sample_does_not_depend_on_the_batch_it_is_drawn_in(churn):
    edm, noise_keys = EDM(), keys(6)
    denoise, sampler = gaussian_denoiser(edm, 1.0), Sampler(steps=6, churn=churn)

    def draw(some):
        return run(denoise, initial_noise(some, (3,), edm), edm, sampler, some)

    together = draw(noise_keys)
    np.testing.assert_allclose(draw(noise_keys[4:5]), together[4:5], rtol=1e-5)
    np.testing.assert_allclose(draw(noise_keys[::-1]), together[::-1], rtol=1e-5)
    assert len(np.unique(together)) == together.size


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("solver", SOLVERS)
def test_the_carry_passes_through_every_call(solver, steps):
    def denoise(x, sigma, carry):
        return x, {"calls": carry["calls"] + 1}

    start = jnp.ones((2, 3))
    sampler = Sampler(steps=steps, solver=solver)
    carry = {"calls": jnp.array(100)}
    _, carry = sample(denoise, start, carry, keys(2), EDM(), sampler)
    assert carry["calls"] == 100 + CALLS[solver](steps)
    assert sampler.calls == CALLS[solver](steps)


def test_heun_visits_every_level_but_the_first_and_zero_twice():
    def denoise(x, sigma, carry):
        calls, seen = carry
        return x, (calls + 1, seen.at[calls].set(sigma[0]))

    carry = (jnp.array(0), jnp.zeros(5))
    _, (_, seen) = sample(
        denoise, jnp.ones((2, 3)), carry, keys(2), EDM(), Sampler(steps=3)
    )
    high, middle, low, zero = sigma_schedule(EDM(), 3)
    np.testing.assert_allclose(seen, [high, middle, middle, low, low], rtol=1e-6)
    assert zero == 0


def test_the_result_is_in_data_scale():
    # A denoiser that always says the same is believed: the last step ends on it.
    clip = jnp.array([[0.25, -1.0, 0.5]])
    result, _ = sample(
        lambda x, sigma, carry: (clip, carry),
        80 * jnp.ones((1, 3)),
        (),
        keys(1),
        EDM(sigma_in=4.0),
        Sampler(steps=10),
    )
    np.testing.assert_allclose(result, clip, atol=1e-4)


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(solver="rk4"), r"solver='rk4' is unknown; use one of heun, euler,"),
        (dict(solver="huen"), "solver='huen' is unknown; did you mean 'heun'"),
        (dict(solver="dpmpp2m"), "is unknown; did you mean 'dpmpp_2m'"),
        (dict(steps=0), "sampler.steps=0 must be at least 1"),
        (dict(churn=-1.0), "sampler.churn=-1.0 must be 0 or more"),
        (dict(solver="dpmpp_2m", churn=5.0), r"churn=5.0 .*use 0, or one of \('heun'"),
        (dict(solver="adams_bashforth", churn=5.0), "'adams_bashforth' does not"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Sampler(**changes)
