"""Sampling: one scanned integrator over ``denoise(x, sigma, carry)``.

``denoise`` returns ``(D, carry)``: the denoised clip in data scale, and whatever one
call hands to the next (the latents of FIT's self-conditioning; nothing for a U-Net).
The sampler neither knows what is inside nor whether it is guided.

It integrates, from ``N(0, sigma_max^2 I)`` down to 0 (Sec. 3.6),

    dx/dsigma = (x - D(x; sigma) / sigma_in) / sigma,

and returns ``sigma_in x``, a clip in data scale.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from snapvideo_jax.diffusion.edm import EDM
from snapvideo_jax.types import Keys

Carry = Any
Denoise = Callable[[Array, Array, Carry], tuple[Array, Carry]]
SOLVERS = ("heun", "euler")


@dataclasses.dataclass(frozen=True)
class Sampler:
    """An integrator of the sampling equation.

    Attributes:
      steps: noise levels visited before 0. [P] Sec. 3.6: 256 in stage 1, 40 in 2.
      solver: "heun" (2nd order, two network calls a step and one for the last) or
        "euler" (1st order, one call a step). [P] Heun.
      churn: EDM's ``S_churn``; 0 is the deterministic sampler. [P] 0.
      churn_min, churn_max: noise levels between which noise is added back.
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
            raise ValueError(
                f"sampler.solver={self.solver!r} is unknown; use one of {SOLVERS}."
            )
        if self.steps < 2:
            raise ValueError(f"sampler.steps={self.steps} must be at least 2.")

    @property
    def calls(self) -> int:
        """Calls of the denoiser that one clip takes."""
        return 2 * self.steps - 1 if self.solver == "heun" else self.steps


def sigma_schedule(edm: EDM, steps: int) -> Float[Array, "steps_and_zero"]:
    """Noise levels of a run, falling from ``sigma_max`` to ``sigma_min``, then 0."""
    ramp = jnp.arange(steps) / (steps - 1)
    high, low = edm.sigma_max ** (1 / edm.rho), edm.sigma_min ** (1 / edm.rho)
    levels = (high + ramp * (low - high)) ** edm.rho
    return jnp.append(levels, 0.0)


def initial_noise(keys: Keys, shape: tuple[int, ...], edm: EDM) -> Float[Array, "b *s"]:
    """Pure noise at ``sigma_max``; that of sample ``i`` depends on key ``i`` only."""
    draw = jax.vmap(lambda key: jax.random.normal(key, shape))
    return edm.sigma_max * draw(jax.vmap(jax.random.fold_in, (0, None))(keys, 0))


def sample(
    denoise: Denoise,
    start: Float[Array, "b *s"],
    carry: Carry,
    keys: Keys,
    edm: EDM,
    sampler: Sampler,
) -> tuple[Float[Array, "b *s"], Carry]:
    """Clips in data scale, and the last carry.

    Args:
      denoise: ``(x_sigma [b ...], sigma [b], carry) -> (D [b ...], carry)``.
      start: noise at ``sigma_max``, see `initial_noise`.
      carry: what the first call of ``denoise`` receives.
      keys: one per sample; used by churn only.
      edm: gives ``sigma_in`` and the range of noise levels.
      sampler: number of steps, solver, churn.
    """
    levels = sigma_schedule(edm, sampler.steps)

    def slope(x, sigma, carry):
        clip, carry = denoise(x, jnp.full(x.shape[:1], sigma), carry)
        return (x - clip.astype(x.dtype) / edm.sigma_in) / sigma, carry

    def step(state, inputs):
        x, carry = state
        index, sigma, sigma_next = inputs
        if sampler.churn:
            x, sigma = _add_noise(x, sigma, index, keys, sampler)
        first, carry = slope(x, sigma, carry)
        proposal = x + (sigma_next - sigma) * first
        if sampler.solver == "euler":
            return (proposal, carry), None
        second, carry = slope(proposal, sigma_next, carry)
        return (x + (sigma_next - sigma) * (first + second) / 2, carry), None

    # The last step, to sigma = 0, has no second slope: it is Euler's.
    index = jnp.arange(sampler.steps - 1)
    inputs = (index, levels[:-2], levels[1:-1])
    (x, carry), _ = jax.lax.scan(step, (start, carry), inputs)
    first, carry = slope(x, levels[-2], carry)
    return (x - levels[-2] * first) * edm.sigma_in, carry


def _add_noise(x, sigma, index, keys, sampler: Sampler):
    """EDM's churn (Alg. 2 of arXiv 2206.00364): raises the noise level for one step."""
    active = (sigma >= sampler.churn_min) & (sigma <= sampler.churn_max)
    rate = jnp.minimum(sampler.churn / sampler.steps, jnp.sqrt(2.0) - 1)
    raised = sigma * (1 + jnp.where(active, rate, 0.0))
    keys = jax.vmap(jax.random.fold_in, (0, None))(keys, index + 1)
    eps = jax.vmap(lambda key: jax.random.normal(key, x.shape[1:]))(keys)
    added = sampler.churn_noise * jnp.sqrt(raised**2 - sigma**2)
    return x + added * eps, raised
