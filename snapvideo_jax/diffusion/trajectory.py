"""What a sampler sees on its way, at a few of its noise levels.

`recorded` is a wrapper of a denoiser, the outermost one; what it keeps travels in the
carry, so the memory of a long run is that of the few levels.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from snapvideo_jax.diffusion.edm import EDM, broadcast
from snapvideo_jax.diffusion.samplers import Denoise, Stepwise, sigma_schedule


def recorded_steps(steps: int, count: int, first: int = 0) -> tuple[int, ...]:
    """Up to ``count`` of the steps of a run, evenly spread, with the first and last."""
    spread = np.linspace(first, steps - 1, count)
    return tuple(sorted({round(step) for step in spread}))


def empty_recording(
    start: Float[Array, "b *s"], steps: int, count: int, first: int = 0
) -> tuple[Float[Array, "b k *s"], Float[Array, "b k *s"]]:
    """What `recorded` begins with, for noise of the shape of ``start``."""
    shape = (len(start), len(recorded_steps(steps, count, first)), *start.shape[1:])
    return jnp.zeros(shape), jnp.zeros(shape)


def recorded(
    denoise: Denoise | Stepwise, edm: EDM, steps: int, count: int, first: int = 0
) -> Stepwise:
    """``denoise``, its first call of some steps kept.

    The carry is ``(carry, kept)``; kept are what the network is shown, ``c_in x`` cut
    to the scale of a clip, and its estimates, each ``b k ...`` in the order of steps.

    Args:
      denoise: the same in all steps or not.
      edm: its noise levels.
      steps: of the sampler.
      count: how many are kept, see `recorded_steps`.
      first: step that the sampler begins with.
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
            carry, kept = carry
            clip, carry = inner(x, sigma, carry)
            shown = jnp.clip(edm.c_in(broadcast(sigma, x)) * x, -1, 1)
            place = places[index]
            is_kept = (place >= 0) & (sigma[0] > between)

            def put(whole, now):
                changed = whole.at[:, jnp.maximum(place, 0)].set(now)
                return jnp.where(is_kept, changed, whole)

            return clip, (carry, jax.tree.map(put, kept, (shown, clip)))

        return call

    return Stepwise(at)
