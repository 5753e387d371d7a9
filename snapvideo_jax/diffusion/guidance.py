"""Guidance: wrappers that turn a denoiser into a guided one of the same signature.

They compose: each takes a ``denoise`` and returns one. `with_guidance` applies those of
a run: classifier-free guidance, autoguidance, thresholding, from the inside out. Where
frames are known, `snapvideo_jax.diffusion.reconstruction` wraps them all.

There are two conventions for a weight. ``g`` of Fig. 5, used here, is 0 for the plain
conditional model: ``D_c + g (D_c - D_u)``. Others write ``w D_c + (1 - w) D_u``, where
``w = 1 + g``. Autoguidance has its paper's ``w``, so its ``g`` is ``w - 1``.
"""

import dataclasses

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float

from snapvideo_jax.diffusion.edm import broadcast
from snapvideo_jax.diffusion.samplers import Denoise, Stepwise

Weight = float | Float[Array, ""]


@dataclasses.dataclass(frozen=True)
class Guidance:
    """How estimates are guided. The weight ``g`` itself comes with each request.

    Attributes:
      oscillate: whether the weight alternates between ``g`` and ``low``; see
        `oscillation`.
      after: number of first steps with the constant weight ``g`` where it oscillates.
      low: the lower weight, as ``g`` (0 is the plain conditional model; other papers'
        weight is 1 + low).
      interval: noise levels between which the weight applies; elsewhere it is 0. They
        are levels of ``x / sigma_in + sigma eps``: a level of EDM, whose data have a
        standard deviation of 0.5, is ``2 sigma_data / sigma_in`` times as much here.
      threshold: quantile ``q`` of dynamic thresholding; 0 for none.
      negative_prompt: text of the unconditional pass; "" for the null token.
      autoguidance: weight ``w`` of the guiding model, if there is one; 1 disables it.
        [P of arXiv 2406.02507: 1.2 to 3].
    """

    oscillate: bool = False
    after: int = 10
    low: float = 0.0
    interval: tuple[float, float] = (0.0, float("inf"))
    threshold: float = 0.0
    negative_prompt: str = ""
    autoguidance: float = 2.0

    def __post_init__(self):
        if self.after < 0:
            raise ValueError(f"guidance.after={self.after} is below 0; use 0 or more.")
        low, high = self.interval
        if not 0 <= low <= high:
            raise ValueError(
                f"guidance.interval={self.interval} is not a range of noise levels; "
                "use two values of at least 0, the smaller one first."
            )
        if not 0 <= self.threshold <= 1:
            raise ValueError(
                f"guidance.threshold={self.threshold} is not a quantile; use one above "
                "0 and up to 1, such as 0.995, or 0 for no thresholding."
            )


def with_guidance(
    denoise: Denoise,
    guidance: Guidance,
    steps: int,
    weight: Weight | None = None,
    guide: Denoise | None = None,
) -> Denoise | Stepwise:
    """``denoise`` with the guidance of a run.

    Args:
      denoise: of ``2 b`` clips, as for `classifier_free_guidance`, where there is a
        ``weight``; else of ``b``.
      guidance: settings.
      steps: of the sampler.
      weight: ``g``; None for no classifier-free guidance.
      guide: the guiding model, of ``b`` clips. The carry is then that of both, as for
        `autoguidance`.
    """

    def guided(weight: Weight | None) -> Denoise:
        result = denoise
        if weight is not None:
            result = classifier_free_guidance(result, weight, guidance.interval)
        if guide is not None:
            result = autoguidance(result, guide, guidance.autoguidance)
        if guidance.threshold:
            result = dynamic_thresholding(result, guidance.threshold)
        return result

    if weight is None or not guidance.oscillate:
        return guided(weight)
    weights = oscillation(weight, guidance.low, guidance.after, steps)
    return Stepwise(lambda index: guided(weights[index]))


def classifier_free_guidance(
    denoise: Denoise,
    weight: Weight,
    interval: tuple[float, float] = (0.0, float("inf")),
) -> Denoise:
    """``D_c + g (D_c - D_u)``: the conditional estimate, away from the unconditional.

    ``weight`` is ``g`` of Fig. 5: 0 is the plain conditional model [C]. Papers that
    write ``w D_c + (1 - w) D_u`` have ``w = 1 + g``.

    Args:
      denoise: a denoiser of ``2 b`` clips whose context holds every sample twice, as
        `interleave` orders them: conditional, then unconditional (or under a negative
        prompt), so that both estimates come from one network call and no clip leaves
        its device. Its carry is for ``2 b`` samples too.
      weight: ``g``.
      interval: noise levels between which it applies (arXiv 2404.07724); elsewhere
        the weight is 0.
    """
    low, high = interval

    def guide(x, sigma, carry):
        both, carry = denoise(*duplicate((x, sigma)), carry)
        conditional, unconditional = rearrange(both, "(b two) ... -> two b ...", two=2)
        inside = (sigma >= low) & (sigma <= high)
        g = broadcast(jnp.where(inside, weight, 0.0).astype(x.dtype), x)
        return conditional + g * (conditional - unconditional), carry

    return guide


def oscillation(
    high: Weight, low: Weight, after: int, steps: int
) -> Float[Array, "steps"]:
    """Weights of all steps: ``high`` in the first ``after``, then low, high, low, ...

    Imagen Video (arXiv 2210.02303, Sec. 2.6): a high weight throughout saturates, and a
    low step in between brings the clip back.
    """
    index = jnp.arange(steps)
    is_low = (index >= after) & ((index - after) % 2 == 0)
    return jnp.where(is_low, low, high).astype(jnp.float32)


def dynamic_thresholding(denoise: Denoise, quantile: float) -> Denoise:
    """Estimates scaled and clipped into [-1, 1] (Imagen, arXiv 2205.11487, Sec. 2.3).

    For every sample ``s = max(1, quantile_q |D|)`` and ``D -> clip(D, -s, s) / s``.
    Where at most the share ``1 - q`` of its values is outside, ``s = 1``: those are
    clipped, the others unchanged. ``s`` is a constant for gradients.
    """

    def thresholded(x, sigma, carry):
        clip, carry = denoise(x, sigma, carry)
        size = jnp.abs(clip).reshape(clip.shape[0], -1)
        scale = jnp.maximum(jnp.quantile(size, quantile, axis=1), 1.0)
        scale = broadcast(jax.lax.stop_gradient(scale).astype(clip.dtype), clip)
        return jnp.clip(clip, -scale, scale) / scale, carry

    return thresholded


def autoguidance(denoise: Denoise, guide: Denoise, weight: Weight) -> Denoise:
    """``D_1 + (w - 1) (D_1 - D_0)``: away from a worse model (arXiv 2406.02507).

    ``weight`` is ``w`` of that paper: 1 is the model without a guide, and its ``g`` is
    ``w - 1``. The model makes the errors of the smaller or earlier model ``D_0`` to a
    lesser degree, so the difference of the two points towards the data.

    Args:
      denoise: the model, ``D_1``; possibly guided already.
      guide: the guiding model, ``D_0``, with its own parameters and carry.
      weight: ``w``.

    Returns:
      A denoiser whose carry is the pair of both carries.
    """

    def guided_by(x, sigma, carry):
        own, other = carry
        better, own = denoise(x, sigma, own)
        worse, other = guide(x, sigma, other)
        return better + (weight - 1) * (better - worse), (own, other)

    return guided_by


def interleave(first, second):
    """Two pytrees of ``b`` samples as one of ``2 b``: first[0], second[0], first[1] ...

    Samples of one number are neighbours, so no sample of a sharded batch leaves its
    device.
    """
    return jax.tree.map(
        lambda *both: rearrange(jnp.stack(both, axis=1), "b two ... -> (b two) ..."),
        first,
        second,
    )


def duplicate(tree):
    """A pytree of ``b`` samples as one of ``2 b``, each sample followed by its copy."""
    return interleave(tree, tree)
