"""Power-function profiles against their closed forms and numerical integrals."""

import math

import numpy as np
import pytest

from snapvideo_jax import optim
from snapvideo_jax.optim import gamma, width
from snapvideo_jax.training.checkpoints import posthoc_ema
from snapvideo_jax.training.checkpoints.posthoc_ema import (
    Average,
    inner_products,
    solve,
)


def profile(average, times):
    """The profile itself, on a grid of times."""
    g, t = gamma(average.width), average.step
    with np.errstate(divide="ignore"):
        return np.where(times <= t, (g + 1) / t * (times / t) ** g, 0.0)


def tracks(widths, steps):
    return [Average(w, s) for s in steps for w in widths]


def midpoints(end, count=400_000):
    return (np.arange(count) + 0.5) * end / count, end / count


@pytest.mark.parametrize("value", [1e-3, 0.01, 0.05, 0.1, 0.15, 0.2, 0.25, 0.288])
def test_gamma_is_the_root_of_the_cubic(value):
    g = gamma(value)
    assert value**2 * (g + 2) ** 2 * (g + 3) == pytest.approx(g + 1, rel=1e-12)
    roots = np.roots([1, 7, 16 - value**-2, 12 - value**-2])
    assert g == pytest.approx(max(roots.real), rel=1e-9) and g > 0
    assert width(g) == pytest.approx(value, rel=1e-12)


def test_known_widths():
    # A plain mean is as wide as an even distribution; gamma 1 is a triangle.
    assert width(0.0) == pytest.approx(optim.WIDEST) == pytest.approx(12**-0.5)
    assert width(1.0) == pytest.approx(1 / math.sqrt(18))
    assert gamma(1 / math.sqrt(18)) == pytest.approx(1.0)


@pytest.mark.parametrize("value", [0.0, -0.1, 12**-0.5, 0.3, 1.0, math.nan])
def test_widths_of_no_growing_profile_are_refused(value):
    with pytest.raises(ValueError, match="is not the width of .* more than 0 and less"):
        gamma(value)


def test_a_width_is_the_relative_deviation_of_its_profile():
    for average in tracks((0.05, 0.1, 0.2), (1, 40)):
        times, dt = midpoints(average.step)
        density = profile(average, times)
        mean = (times * density).sum() * dt
        deviation = math.sqrt(((times - mean) ** 2 * density).sum() * dt)
        assert density.sum() * dt == pytest.approx(1.0, rel=1e-6)
        assert deviation / average.step == pytest.approx(average.width, rel=1e-5)


def test_products_are_the_integrals_of_products():
    averages = tracks((0.05, 0.12, 0.25), (7, 20, 550))
    found = inner_products(averages, averages[::2])
    for row, ours in zip(found, averages, strict=True):
        for value, theirs in zip(row, averages[::2], strict=True):
            times, dt = midpoints(min(ours.step, theirs.step))
            integral = (profile(ours, times) * profile(theirs, times)).sum() * dt
            assert value == pytest.approx(integral, rel=1e-6, abs=1e-12)


def test_products_of_late_steps_do_not_overflow():
    found = inner_products(tracks((0.01,), (1, 10**9)), tracks((0.01,), (10**9,)))
    assert np.isfinite(found).all() and found[1, 0] > 0


@pytest.mark.parametrize("wanted", [0.04, 0.075, 0.15, 0.2])
def test_a_solution_is_the_nearest_of_all_whose_weights_add_up(wanted):
    averages, aim = tracks((0.05, 0.1), range(50, 401, 50)), Average(wanted, 400)
    (found,) = solve(averages, [aim])
    assert found.weights.sum() == pytest.approx(1.0, abs=1e-9)
    times, dt = midpoints(400, 100_000)
    base = np.stack([profile(average, times) for average in averages])
    target = profile(aim, times)

    def off(weights):
        return math.sqrt((((weights @ base - target) ** 2).sum()) * dt)

    norm = math.sqrt((target**2).sum() * dt)
    assert found.error == pytest.approx(off(found.weights) / norm, rel=1e-3)
    rng = np.random.default_rng(0)
    for _ in range(20):
        change = rng.normal(size=len(averages))
        change *= 1e-2 / np.linalg.norm(change - change.mean())
        assert off(found.weights + change - change.mean()) > off(found.weights)
    # Without the condition on their sum, as the paper has it, it is hardly nearer.
    free = np.linalg.lstsq(base.T, target, rcond=None)[0]
    assert off(free) <= off(found.weights) < 1.05 * off(free)


def test_a_tracked_average_is_itself():
    averages = tracks((0.05, 0.1), (10, 20, 30))
    (found,) = solve(averages, [Average(0.1, 30)])
    np.testing.assert_allclose(found.weights, [0, 0, 0, 0, 0, 1], atol=1e-9)
    assert found.error < 1e-6 and found.amplification == pytest.approx(1.0)


def test_more_snapshots_are_nearer_and_hundreds_can_be_solved():
    def error(count):
        averages = tracks((0.05, 0.1), range(1, count + 1))
        return solve(averages, [Average(0.075, count)])[0].error

    errors = [error(count) for count in (4, 8, 16, 64, 200)]
    assert errors == sorted(errors, reverse=True)
    # What the closed forms give, to two digits.
    assert errors[0] == pytest.approx(0.033, abs=5e-4)
    assert errors[2] == pytest.approx(0.0035, abs=5e-5) and errors[4] < 5e-5


def test_averages_of_any_path_are_made_of_two_tracks_as_exactly_as_predicted():
    """In float64, on random walks: the error is that of the profile, to rounding."""
    steps, aim = 600, Average(0.075, 600)
    path = np.cumsum(np.random.default_rng(0).normal(size=(steps, 5)), axis=0)
    saved = {average: None for average in tracks((0.05, 0.1), range(60, 601, 60))}
    tracked = {0.05: 0.0, 0.1: 0.0, 0.075: 0.0}
    for k in range(1, steps + 1):
        for of_width in tracked:
            beta = (1 - 1 / k) ** (gamma(of_width) + 1)
            tracked[of_width] = beta * tracked[of_width] + (1 - beta) * path[k - 1]
            if (average := Average(of_width, k)) in saved:
                saved[average] = tracked[of_width]
    (found,) = solve(list(saved), [aim])
    made = found.weights @ np.stack(list(saved.values()))
    # By step, a profile weighs what its integral over that step is.
    edges = np.arange(steps + 1)

    def by_step(average):
        share = np.minimum(edges / average.step, 1) ** (gamma(average.width) + 1)
        return np.diff(share)

    off = found.weights @ np.stack([by_step(a) for a in saved]) - by_step(aim)
    np.testing.assert_allclose(made - tracked[0.075], off @ path, atol=1e-9)
    centred = path - path.mean(axis=0)
    bound = found.error * math.sqrt(inner_products([aim], [aim]).item())
    assert 0 < np.linalg.norm(off) <= 1.01 * bound
    errors = np.abs(made - tracked[0.075])
    assert (errors <= 1.01 * bound * np.linalg.norm(centred, axis=0)).all()


def test_half_lives_are_those_of_exponential_averages_as_wide():
    """An exponential average's age has a deviation of half-life / ln 2."""
    half_life = posthoc_ema.half_life_of(0.1, 50_000)
    ages = np.arange(400_000)
    share = 0.5 ** (ages / half_life)
    share /= share.sum()
    mean = (ages * share).sum()
    deviation = math.sqrt(((ages - mean) ** 2 * share).sum())
    assert deviation / 50_000 == pytest.approx(0.1, rel=1e-3)
    assert posthoc_ema.width_of(half_life, 50_000) == pytest.approx(0.1)
