"""The loss of a network as a function of its size and its number of training samples.

    L(f, d) = E + A (f / f0)^-alpha + B (d / d0)^-beta

``f`` is the model's FLOPs of training on one sample, ``d`` the number of samples;
``f0`` and ``d0`` are their geometric means over the runs, so that ``A`` and ``B`` are
losses. ``f`` replaces the number of parameters of arXiv 2203.15556 (its approach 3),
because latents and patches of a FIT cost FLOPs without having parameters. A budget is
then exactly ``f d``, and its best size has a closed form.
"""

import dataclasses
import itertools

import numpy as np
from jaxtyping import Float
from scipy.optimize import least_squares

Runs = Float[np.ndarray, "n"]
MIN_RUNS = 6
"""One more than the law has parameters."""
HUBER = 0.01
"""Threshold of the Huber loss, as relative error of a loss."""
BOUNDS = ([-12, -12, -12, 0.02, 0.02], [8, 8, 8, 2.5, 2.5])
"""Of ln E, ln A, ln B, alpha and beta."""


@dataclasses.dataclass(frozen=True)
class Law:
    """The five parameters of the law, and its reference size and samples.

    Attributes:
      floor: ``E``, the irreducible loss.
      a, alpha: of the size.
      b, beta: of the samples.
      flops0, samples0: ``f0`` and ``d0``, where those terms are ``a`` and ``b``.
    """

    floor: float
    a: float
    b: float
    alpha: float
    beta: float
    flops0: float
    samples0: float

    def loss(self, flops, samples):
        """The loss at ``flops`` FLOPs a sample after ``samples`` samples."""
        size = self.a * (flops / self.flops0) ** -self.alpha
        return self.floor + size + self.b * (samples / self.samples0) ** -self.beta

    @property
    def exponent(self) -> float:
        """The exponent of the budget in the best size."""
        return self.beta / (self.alpha + self.beta)

    def best_flops(self, budget):
        """FLOPs a sample of the best network at a budget of FLOPs."""
        ratio = (self.alpha * self.a) / (self.beta * self.b)
        samples = budget / (self.flops0 * self.samples0)
        power = 1 / (self.alpha + self.beta)
        return self.flops0 * (ratio * samples**self.beta) ** power


def fit(flops: Runs, samples: Runs, losses: Runs) -> Law:
    """Fits the law to runs: least squares of log losses, robust to outliers (Huber).

    Args:
      flops: of training on a sample.
      samples: of the training.
      losses: after the training.

    Raises:
      ValueError: there are too few runs, their sizes or numbers of samples are nearly
        equal, or a loss is not positive.
    """
    _check(flops, samples, losses)
    low, high = losses.min(), losses.max() - losses.min()
    starts = [
        [np.log(low * share), np.log(high), np.log(high), alpha, beta]
        for share, alpha, beta in itertools.product(
            (0.2, 0.6, 0.95), (0.15, 0.5, 1.0), (0.15, 0.5, 1.0)
        )
    ]
    return _fit(flops, samples, losses, starts)


def bootstrap(
    law: Law, flops: Runs, samples: Runs, losses: Runs, draws: int, seed: int
) -> list[Law]:
    """Laws fitted to resampled losses: those of ``law`` with residuals of other runs.

    Residuals and not runs are resampled, since a subset of few runs does not determine
    a law. They are scaled for the five degrees of freedom of the fit.

    Args:
      law: fitted to the runs.
      draws: number of resamples.
      seed: of the resampling.
    """
    predicted = law.loss(flops, samples)
    errors = np.log(losses) - np.log(predicted)
    errors = (errors - errors.mean()) * np.sqrt(len(losses) / (len(losses) - 5))
    rng = np.random.default_rng(seed)
    start = [np.log([law.floor, law.a, law.b]).tolist() + [law.alpha, law.beta]]
    found = []
    for _ in range(draws):
        drawn = predicted * np.exp(rng.choice(errors, len(errors)))
        found.append(_fit(flops, samples, drawn, start))
    return found


def interval(values, level: float = 0.95) -> tuple[float, float]:
    """The central interval that contains the share ``level`` of the values."""
    low, high = np.quantile(list(values), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def parabola_minimum(flops: Runs, losses: Runs) -> tuple[float, float] | None:
    """The minimum of a parabola in ln FLOPs through runs of one budget (approach 2).

    Returns:
      FLOPs a sample and loss; None for fewer than three sizes, or where the minimum is
      outside of them.
    """
    if len(np.unique(flops)) < 3:
        return None
    x = np.log(flops / flops.min())
    curve, slope, level = np.polyfit(x, losses, 2)
    if curve <= 0 or not 0 <= (at := -slope / (2 * curve)) <= x.max():
        return None
    return float(flops.min() * np.exp(at)), float(level - slope**2 / (4 * curve))


def _fit(flops, samples, losses, starts) -> Law:
    flops0, samples0 = (float(np.exp(np.log(x).mean())) for x in (flops, samples))
    size, seen = np.log(flops / flops0), np.log(samples / samples0)
    wanted = np.log(losses)

    def terms(numbers):
        floor, a, b, alpha, beta = numbers
        return np.stack([np.full(len(size), floor), a - alpha * size, b - beta * seen])

    def errors(numbers):
        return np.logaddexp.reduce(terms(numbers)) - wanted

    def slopes(numbers):
        parts = terms(numbers)
        floor, a, b = np.exp(parts - np.logaddexp.reduce(parts))
        return np.stack([floor, a, b, -size * a, -seen * b], axis=1)

    low, high = np.array(BOUNDS[0]) + 1e-6, np.array(BOUNDS[1]) - 1e-6
    found = [
        least_squares(
            errors,
            np.clip(start, low, high),
            slopes,
            bounds=BOUNDS,
            loss="huber",
            f_scale=HUBER,
        )
        for start in starts
    ]
    floor, a, b, alpha, beta = min(found, key=lambda one: one.cost).x
    return Law(
        *map(float, np.exp([floor, a, b])), float(alpha), float(beta), flops0, samples0
    )


def _check(flops, samples, losses) -> None:
    if len(losses) < MIN_RUNS:
        raise ValueError(
            f"{len(losses)} runs are too few for a law of five numbers; finish "
            f"{MIN_RUNS} or more."
        )
    if not (np.isfinite(losses).all() and (losses > 0).all()):
        raise ValueError(
            "A run has a loss that is not a positive number; leave it out."
        )
    for name, values in (("size", flops), ("number of samples", samples)):
        if np.ptp(np.log(values)) < 0.1:
            raise ValueError(
                f"All runs have nearly the same {name}; use further budgets or sizes."
            )
