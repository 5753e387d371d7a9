"""Guidance: wrappers that turn a denoiser into a guided one of the same signature."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from snapvideo_jax.diffusion.samplers import Denoise


def classifier_free_guidance(
    denoise: Denoise, weight: float | Float[Array, ""]
) -> Denoise:
    """``D_c + g (D_c - D_u)``: the conditional estimate, pushed off the unconditional.

    ``weight`` is ``g`` of Fig. 5: 0 is the plain conditional model [C]. Papers that
    write ``w D_c + (1 - w) D_u`` have ``w = 1 + g``.

    Args:
      denoise: a denoiser of ``2 b`` clips whose context holds the ``b`` conditional
        samples first and then the same ones unconditionally, so that both estimates
        come from one network call. Its carry is of ``2 b`` samples too.
      weight: ``g``.
    """

    def guided(x, sigma, carry):
        both, carry = denoise(*twice((x, sigma)), carry)
        conditional, unconditional = jnp.split(both, 2)
        return conditional + weight * (conditional - unconditional), carry

    return guided


def twice(tree):
    """A pytree of ``b`` samples, stacked on itself to ``2 b``."""
    return jax.tree.map(lambda array: jnp.concatenate([array, array]), tree)
