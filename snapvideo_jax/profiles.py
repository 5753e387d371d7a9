"""Power-function averages of parameters, and how one is made from others afterwards.

The average of exponent gamma weighs the parameters of time ``s`` by a *profile*,

    p(s) = (gamma + 1) s^gamma / t^(gamma + 1)    for 0 < s <= t, its step

which is as wide in proportion to ``t`` at any ``t``; its *width* is its standard
deviation, divided by ``t``. Averages of two widths, kept at several steps, span many
other profiles: `solve` finds the one nearest to a profile that is wanted.

From the equations of arXiv 2312.02696 (Sec. 3.1, 3.2, App. C). Its update,
``beta = (1 - 1/t)^(gamma + 1)``, gives step ``k`` the weight
``(k^(gamma+1) - (k-1)^(gamma+1)) / t^(gamma+1)``, the integral of ``p`` over that step,
so what is said of profiles holds for training steps exactly.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

WIDEST = 12**-0.5
"""The width of a plain mean; a profile above it would weigh the beginning most."""


def gamma(width: float) -> float:
    """The exponent of a profile of this width.

    ``width^2 (gamma + 2)^2 (gamma + 3) = gamma + 1`` is a cubic of three real roots,
    of which the largest is above 0; by Viete's formula. [Sec. 3.1]

    Args:
      width: above 0 and below `WIDEST`.

    Raises:
      ValueError: it is not.
    """
    check_width(width, "The width")
    # gamma = x - 7/3 turns gamma^3 + 7 gamma^2 + (16 - s) gamma + 12 - s, s = width^-2,
    # into x^3 + p x + q.
    p = -1 / 3 - width**-2
    q = 2 / 27 + width**-2 * 4 / 3
    angle = math.acos(3 * q / (2 * p) * math.sqrt(-3 / p)) / 3
    return 2 * math.sqrt(-p / 3) * math.cos(angle) - 7 / 3


def width(gamma: float) -> float:
    """The width of a profile: the deviation of a Beta(gamma + 1, 1) variable."""
    return math.sqrt((gamma + 1) / (gamma + 3)) / (gamma + 2)


def check_width(value: float, name: str) -> None:
    """Refuses what is the width of no profile that grows.

    Raises:
      ValueError: it is not above 0 and below `WIDEST`.
    """
    if not 0 < value < WIDEST:
        raise ValueError(
            f"{name}: {value} is the width of no power-function average; use more than "
            f"0 and less than {WIDEST:.4f}, such as 0.05 and 0.1."
        )


def half_life_of(width: float, step: int) -> float:
    """The half-life, in steps, of the exponential average as wide as this one."""
    return width * step * math.log(2)


def width_of(half_life: float, step: int) -> float:
    """The width of the power-function average as wide as one of this half-life."""
    return half_life / (step * math.log(2))


@dataclasses.dataclass(frozen=True)
class Average:
    """A power-function average: its width, and the step it was taken at."""

    width: float
    step: int


def products(ours: Sequence[Average], theirs: Sequence[Average]) -> np.ndarray:
    """Integrals of the products of profiles: a row for each of ours."""
    (g, t), (h, u) = _exponents(ours), _exponents(theirs)
    g, t = g[:, None], t[:, None]
    least = np.minimum(t, u)
    # (least / t)^(g+1) and alike: steps to the power of 20 would be large numbers.
    scaled = (least / t) ** (g + 1) * (least / u) ** (h + 1)
    return (g + 1) * (h + 1) / (g + h + 1) * scaled / least


def _exponents(averages: Sequence[Average]) -> tuple[np.ndarray, np.ndarray]:
    """Exponents and steps of averages."""
    exponents = {width: gamma(width) for width in {a.width for a in averages}}
    return (
        np.array([exponents[average.width] for average in averages]),
        np.array([average.step for average in averages], np.float64),
    )


@dataclasses.dataclass(frozen=True)
class Solution:
    """How a profile is made of others.

    Attributes:
      weights: of the averages; their sum is 1.
      error: norm of the profile's error, in proportion to the norm of the profile.
      amplification: by how much errors of single averages, such as rounding, come
        through: the norm of the weights.
    """

    weights: np.ndarray
    error: float
    amplification: float


def solve(averages: Sequence[Average], wanted: Sequence[Average]) -> list[Solution]:
    """The sums of averages whose profiles are nearest to those that are wanted.

    Least squares over profiles, in closed form and float64 [Sec. 3.2, App. C]. Differs:
    weights are held to a sum of 1, as those of any average are. It costs some 3%
    of the error where that is a tenth, and no parameter shrinks by what is
    missing from the sum.

    Args:
      averages: that are there, none of them twice.
      wanted: of any width, at the newest step of ``averages``.

    Returns:
      A solution for each that is wanted.
    """
    size = len(averages)
    gram, aims = products(averages, averages), products(averages, wanted)
    unit = np.diag(gram) ** -0.5  # profiles of norm 1 keep the system well scaled
    system = np.zeros((size + 1, size + 1))
    system[:size, :size] = gram * unit * unit[:, None]
    system[size, :size] = system[:size, size] = unit
    sides = np.vstack([aims * unit[:, None], np.ones(len(wanted))])
    solved = np.linalg.lstsq(system, sides, rcond=None)[0]
    found = []
    for aim, column, each in zip(aims.T, solved.T, wanted, strict=True):
        weights = column[:size] * unit
        norm = products([each], [each]).item()
        square = norm - 2 * weights @ aim + weights @ gram @ weights
        error = math.sqrt(max(square, 0.0) / norm)
        found.append(Solution(weights, error, float(np.linalg.norm(weights))))
    return found
