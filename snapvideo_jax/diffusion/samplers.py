"""Sampling: one scanned integrator over ``denoise(x, sigma, carry)``.

``denoise`` returns ``(D, carry)``: the denoised clip in data scale, and what one call
passes to the next (the latents of FIT's self-conditioning; nothing for a U-Net). The
sampler depends neither on the network nor on guidance. Where guidance changes from step
to step it takes a `Stepwise` instead, a denoiser for every step.

It integrates, from ``N(0, sigma_max^2 I)`` down to 0 (Sec. 3.6),

    dx/dsigma = (x - D(x; sigma) / sigma_in) / sigma,

by one of `snapvideo_jax.diffusion.solvers`, and returns ``sigma_in x``, a clip in data
scale: the last estimate. Its memory use does not depend on the number of steps.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from snapvideo_jax.diffusion.edm import EDM
from snapvideo_jax.diffusion.noise import fold_in, normal
from snapvideo_jax.diffusion.solvers import SOLVERS, Carry, Step
from snapvideo_jax.io.messages import did_you_mean
from snapvideo_jax.types import Keys

Denoise = Callable[[Array, Array, Carry], tuple[Array, Carry]]


@dataclasses.dataclass(frozen=True)
class Stepwise:
    """A denoiser for every step.

    Attributes:
      at: maps the number of a step (a traced scalar, from 0) to its denoiser. All calls
        within a step use the same one: solvers average slopes within a step, which
        would average out weights that alternate.
    """

    at: Callable[[Array], Denoise]


@dataclasses.dataclass(frozen=True)
class Sampler:
    """An integrator of the sampling equation.

    Attributes:
      steps: noise levels visited before 0. [P] Sec. 3.6: 256 in stage 1, 40 in 2.
      solver: "heun" (2nd order, two network calls a step and one for the last),
        "euler" (1st order), "dpmpp_2m" or "adams_bashforth" (2nd order multi-step);
        all but Heun make one call a step. [P] Heun.
      churn: EDM's ``S_churn``; 0 is the deterministic sampler. [P] 0. Only for one-step
        solvers: a multi-step solver's past does not contain the noise it adds.
      churn_min, churn_max: noise levels between which noise is added.
      churn_noise: EDM's ``S_noise``, scale of the added noise.
    """

    steps: int = 256
    solver: str = "heun"
    churn: float = 0.0
    churn_min: float = 0.0
    churn_max: float = float("inf")
    churn_noise: float = 1.0

    def __post_init__(self):
        if self.solver not in SOLVERS:
            hint = did_you_mean(self.solver, SOLVERS)
            raise ValueError(f"sampler.solver={self.solver!r} is unknown; {hint}")
        if self.steps < 1:
            raise ValueError(f"sampler.steps={self.steps} must be at least 1.")
        if self.churn < 0:
            raise ValueError(f"sampler.churn={self.churn} must be 0 or more.")
        if self.churn and SOLVERS[self.solver].is_multistep:
            single = tuple(n for n in SOLVERS if not SOLVERS[n].is_multistep)
            raise ValueError(
                f"sampler.churn={self.churn} adds noise that the multi-step solver "
                f"{self.solver!r} does not support; use 0, or one of {single}."
            )

    @property
    def calls(self) -> int:
        """Calls of the denoiser that one clip takes."""
        return SOLVERS[self.solver].calls * (self.steps - 1) + 1


def sigma_schedule(edm: EDM, steps: int) -> Float[Array, "steps_and_zero"]:
    """Noise levels of a run, falling from ``sigma_max`` to ``sigma_min``, then 0.

    A single step starts at ``sigma_max``.
    """
    ramp = jnp.arange(steps) / max(steps - 1, 1)
    high, low = edm.sigma_max ** (1 / edm.rho), edm.sigma_min ** (1 / edm.rho)
    levels = (high + ramp * (low - high)) ** edm.rho
    return jnp.append(levels, 0.0)


def initial_noise(keys: Keys, shape: tuple[int, ...], edm: EDM) -> Float[Array, "b *s"]:
    """Pure noise at ``sigma_max``; that of sample ``i`` depends on key ``i`` only."""
    return edm.sigma_max * normal(fold_in(keys, 0), shape)


def first_step(steps: int, strength: float) -> int:
    """The step at which sampling starts from a clip instead of from noise.

    Args:
      steps: of the sampler.
      strength: share of the steps that run, the last ones: all at 1, none at 0.
    """
    return steps - round(strength * steps)


def noised(
    clip: Float[Array, "b *s"],
    noise: Float[Array, "b *s"],
    edm: EDM,
    steps: int,
    first: int,
) -> Float[Array, "b *s"]:
    """A clip at the noise level of step ``first``, from which a sampler can start.

    At step 0 it is pure noise; after the last step it has no noise.

    Args:
      clip: in data scale.
      noise: from `initial_noise`.
      edm: gives ``sigma_in`` and the noise levels.
      steps: of the sampler.
      first: see `first_step`.
    """
    if first == 0:
        return noise
    level = sigma_schedule(edm, steps)[first]
    return edm.corrupt(clip, noise / edm.sigma_max, level)


def sample(
    denoise: Denoise | Stepwise,
    start: Float[Array, "b *s"],
    carry: Carry,
    keys: Keys,
    edm: EDM,
    sampler: Sampler,
    first: int = 0,
) -> tuple[Float[Array, "b *s"], Carry]:
    """Clips in data scale, and the last carry.

    Args:
      denoise: ``(x_sigma [b ...], sigma [b], carry) -> (D [b ...], carry)``, or one for
        every step.
      start: noise at ``sigma_max``, see `initial_noise`, or the state at ``first``.
      carry: what the first call of ``denoise`` receives.
      keys: one per sample; used by churn only.
      edm: gives ``sigma_in`` and the range of noise levels.
      sampler: number of steps, solver, churn.
      first: number of the first step, see `noised`.
    """
    levels = sigma_schedule(edm, sampler.steps)
    solver = SOLVERS[sampler.solver]
    if first == sampler.steps:
        return edm.sigma_in * start, carry

    def call(index, x, sigma, carry):
        inner = denoise.at(index) if isinstance(denoise, Stepwise) else denoise
        clip, carry = inner(x, jnp.full(x.shape[:1], sigma), carry)
        return clip.astype(x.dtype), carry

    def step(state, inputs):
        x, carry, past = state
        index, sigma, sigma_next, ratio = inputs
        if sampler.churn:
            x, sigma = _add_noise(x, sigma, index, keys, sampler)

        def estimate(x, sigma, carry):
            clip, carry = call(index, x, sigma, carry)
            return clip / edm.sigma_in, carry

        step = Step(sigma, sigma_next, ratio)
        return solver.advance(estimate, x, carry, past, step), None

    # The last step, to sigma = 0, is Euler's, whose result is the estimate itself.
    last = sampler.steps - 1
    levels = levels[first:]
    ratios = solver.half_step_ratios(levels[:-1])
    inputs = (jnp.arange(first, last), levels[:-2], levels[1:-1], ratios)
    past = jnp.zeros_like(start) if solver.is_multistep else ()
    (x, carry, _), _ = jax.lax.scan(step, (start, carry, past), inputs)
    return call(jnp.array(last), x, levels[-2], carry)


def _add_noise(x, sigma, index, keys, sampler: Sampler):
    """EDM's churn (Alg. 2 of arXiv 2206.00364): raises the noise level for one step."""
    active = (sigma >= sampler.churn_min) & (sigma <= sampler.churn_max)
    rate = jnp.minimum(sampler.churn / sampler.steps, jnp.sqrt(2.0) - 1)
    raised = sigma * (1 + jnp.where(active, rate, 0.0))
    eps = normal(fold_in(keys, index + 1), x.shape[1:])
    added = sampler.churn_noise * jnp.sqrt(raised**2 - sigma**2)
    return x + added * eps, raised
