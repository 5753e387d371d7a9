"""Recording of sampling trajectories at a few of the noise levels.

`recorded` wraps a denoiser, outside all other wrappers; the recording is part of the
carry, so its memory is that of the recorded levels, however many steps a sampler takes.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from snapvideo_jax.diffusion.edm import EDM, broadcast
from snapvideo_jax.diffusion.samplers import Denoise, Stepwise, sigma_schedule


def recorded_steps(steps: int, count: int, first: int = 0) -> tuple[int, ...]:
    """Up to ``count`` of the steps, evenly spaced, including the first and the last."""
    spread = np.linspace(first, steps - 1, count)
    return tuple(sorted({round(step) for step in spread}))


def empty_recording(
    start: Float[Array, "b *s"], steps: int, count: int, first: int = 0
) -> tuple[Float[Array, "b k *s"], Float[Array, "b k *s"]]:
    """The initial recording of `recorded`, for noise of the shape of ``start``."""
    shape = (len(start), len(recorded_steps(steps, count, first)), *start.shape[1:])
    return jnp.zeros(shape), jnp.zeros(shape)


def recorded(
    denoise: Denoise | Stepwise, edm: EDM, steps: int, count: int, first: int = 0
) -> Stepwise:
    """``denoise``, which records its first call in some of the steps.

    The carry is ``(carry, recording)``. A recording holds the network's inputs ``c_in
    x``, clipped to -1..1, and its estimates, each ``b k ...`` in the order of steps.

    Args:
      denoise: one for all steps, or one for each.
      edm: gives the noise levels.
      steps: of the sampler.
      count: of recorded steps, see `recorded_steps`.
      first: the sampler's first step.
    """
    chosen = recorded_steps(steps, count, first)
    places = np.full(steps, -1)
    places[list(chosen)] = np.arange(len(chosen))
    places, levels = jnp.asarray(places), sigma_schedule(edm, steps)

    def at(index):
        inner = denoise.at(index) if isinstance(denoise, Stepwise) else denoise
        # A second call of the step is nearer to the next level.
        between = (levels[index] + levels[index + 1]) / 2

        def call(x, sigma, carry):
            carry, recording = carry
            clip, carry = inner(x, sigma, carry)
            shown = jnp.clip(edm.c_in(broadcast(sigma, x)) * x, -1, 1)
            place = places[index]
            is_recorded = (place >= 0) & (sigma[0] > between)

            def put(whole, now):
                changed = whole.at[:, jnp.maximum(place, 0)].set(now)
                return jnp.where(is_recorded, changed, whole)

            return clip, (carry, jax.tree.map(put, recording, (shown, clip)))

        return call

    return Stepwise(at)
