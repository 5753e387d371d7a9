"""Solvers: a step of the sampling equation, from one noise level to the next.

With ``E = D / sigma_in``, the estimate of the scaled signal, the equation of Sec. 3.6
is

    dx/dsigma = (x - E(x; sigma)) / sigma.

The signal is not scaled along the way, only once for all by ``1 / sigma_in``, so this
is the variance-exploding case of the literature with ``E`` for the denoiser: a formula
for it holds here as it stands.

A one-step solver knows the step that it takes. A multi-step solver also knows what the
step before found, in ``past``; its first step, which has none before it, is Euler's. So
is the last step of all of them, to ``sigma = 0``.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

Carry = Any
Estimate = Callable[[Array, Array, Carry], tuple[Array, Carry]]
"""``(x [b ...], sigma [], carry) -> (E [b ...], carry)``."""


@dataclasses.dataclass(frozen=True)
class Step:
    """A step between two noise levels, as scalars.

    Attributes:
      sigma, sigma_next: the levels it leads from and to.
      ahead: how far the middle of this step lies past its start, in lengths of the step
        before, all by the solver's clock; 0 for the first step.
    """

    sigma: Float[Array, ""]
    sigma_next: Float[Array, ""]
    half_step_ratio: Float[Array, ""]


@dataclasses.dataclass(frozen=True)
class Solver:
    """How a step is taken.

    Attributes:
      advance: ``(estimate, x, carry, past, step) -> (x, carry, past)``.
      order: by which power of the number of steps the error falls.
      calls: of the denoiser in a step, but for the last, which takes one.
      clock: for a multi-step solver, of which function of sigma steps are measured.
    """

    advance: Callable
    order: int
    calls: int = 1
    clock: Callable[[Array], Array] | None = None

    @property
    def is_multistep(self) -> bool:
        return self.clock is not None

    def half_step_ratios(self, levels: Float[Array, "levels"]) -> Float[Array, "steps"]:
        """`Step.half_step_ratio` of all steps between ``levels``, which are above 0."""
        steps = len(levels) - 1
        if self.clock is None or steps < 2:
            return jnp.zeros(steps, levels.dtype)
        lengths = jnp.diff(self.clock(levels))
        return jnp.append(0.0, lengths[1:] / (2 * lengths[:-1])).astype(levels.dtype)


def slope(x: Array, estimate: Array, sigma: Array) -> Array:
    """The right side of the sampling equation."""
    return (x - estimate) / sigma


def euler(estimate: Estimate, x, carry, past, step: Step):
    """First order."""
    clean, carry = estimate(x, step.sigma, carry)
    return x + (step.sigma_next - step.sigma) * slope(x, clean, step.sigma), carry, past


def heun(estimate: Estimate, x, carry, past, step: Step):
    """Second order: the mean of the slopes at both ends (EDM, Alg. 1)."""
    clean, carry = estimate(x, step.sigma, carry)
    first = slope(x, clean, step.sigma)
    proposal = x + (step.sigma_next - step.sigma) * first
    clean, carry = estimate(proposal, step.sigma_next, carry)
    second = slope(proposal, clean, step.sigma_next)
    return x + (step.sigma_next - step.sigma) * (first + second) / 2, carry, past


def dpmpp_2m(estimate: Estimate, x, carry, past, step: Step):
    """DPM-Solver++(2M) (arXiv 2211.01095, Alg. 2): second order, one call a step.

    With ``l = -ln sigma`` the sampling equation says

        d(x / sigma) / dl = e^l E,

    so a step from ``l`` to ``l'`` is exact but for ``E``:

        x' / sigma' = x / sigma + integral of e^l E from l to l'.

    An ``E`` that stays leaves ``x' = (sigma' / sigma) x + (1 - sigma' / sigma) E``,
    which is Euler's step. Here ``E`` is its value in the middle of the step, on the
    straight line in ``l`` through this estimate and the one before.
    """
    clean, carry = estimate(x, step.sigma, carry)
    middle = clean + step.half_step_ratio * (clean - past)
    x = x + (step.sigma_next - step.sigma) * slope(x, middle, step.sigma)
    return x, carry, clean


def adams_bashforth(estimate: Estimate, x, carry, past, step: Step):
    """Adams and Bashforth's second-order rule for steps of varying length.

    The slope in the middle of the step lies on the straight line in ``sigma`` through
    this slope and the one before. For this equation it is what DEIS (arXiv 2204.13902)
    gives for polynomials of degree 1.
    """
    clean, carry = estimate(x, step.sigma, carry)
    here = slope(x, clean, step.sigma)
    middle = here + step.half_step_ratio * (here - past)
    return x + (step.sigma_next - step.sigma) * middle, carry, here


SOLVERS = {
    "heun": Solver(heun, order=2, calls=2),
    "euler": Solver(euler, order=1),
    "dpmpp_2m": Solver(dpmpp_2m, order=2, clock=lambda sigma: -jnp.log(sigma)),
    "adams_bashforth": Solver(adams_bashforth, order=2, clock=lambda sigma: sigma),
}
"""All solvers, by the names that ``sampler.solver`` takes."""
