"""Solvers: a step of the sampling equation, from one noise level to the next.

With ``E = D / sigma_in``, the estimate of the scaled signal, the equation of Sec. 3.6
is

    dx/dsigma = (x - E(x; sigma)) / sigma.

The signal is scaled once, by ``1 / sigma_in``, and not along the way, so this is the
variance-exploding case of the literature with ``E`` for the denoiser, and its formulas
hold unchanged.

A one-step solver uses the current step only. A multi-step solver also uses a value of
the previous step, ``past``; its first step, which has none, is Euler's. So is the last
step of every solver, to ``sigma = 0``.
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
      sigma, sigma_next: noise levels at its start and its end.
      half_step_ratio: ``h_i / (2 h_(i-1))``: half the length of this step relative to
        the previous one, with lengths in the solver's time variable; 0 at first.
    """

    sigma: Float[Array, ""]
    sigma_next: Float[Array, ""]
    half_step_ratio: Float[Array, ""]


@dataclasses.dataclass(frozen=True)
class Solver:
    """A solver of the sampling equation.

    Attributes:
      advance: ``(estimate, x, carry, past, step) -> (x, carry, past)``.
      order: the error falls as this power of the number of steps.
      calls: of the denoiser in a step; the last step makes one.
      clock: for a multi-step solver, the function of sigma in which the lengths of
        steps are measured.
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
    """The right-hand side of the sampling equation."""
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

    A constant ``E`` gives ``x' = (sigma' / sigma) x + (1 - sigma' / sigma) E``, which
    is Euler's step. Here ``E`` is its value in the middle of the step, extrapolated
    linearly in ``l`` from this estimate and the previous one.
    """
    clean, carry = estimate(x, step.sigma, carry)
    middle = clean + step.half_step_ratio * (clean - past)
    x = x + (step.sigma_next - step.sigma) * slope(x, middle, step.sigma)
    return x, carry, clean


def adams_bashforth(estimate: Estimate, x, carry, past, step: Step):
    """Adams and Bashforth's second-order rule for steps of varying length.

    The slope in the middle of the step is extrapolated linearly in ``sigma`` from this
    slope and the previous one. For this equation it equals DEIS (arXiv 2204.13902) with
    polynomials of degree 1.
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
"""All solvers, by the values of ``sampler.solver``."""
