"""Reconstruction guidance: a denoiser conditioned on known frames (App. C.5).

Any set of frames ``a`` may be known; the others, ``b``, are sampled. They need
``E[x_b | x_sigma, x_a]``, and the network gives ``D = E[x | x_sigma]``. Let

    r = x_a - D_a(x_sigma)                    its error in the known frames
    J = dD / dx_sigma,   C = Cov(x | x_sigma) = sigma_in sigma^2 J.

The second identity is Tweedie's formula of second order for this forward process. Given
``x_sigma`` a clip is nearly Gaussian, and conditioning a Gaussian on ``x_a`` gives

    D_b <- D_b + w C_ba C_aa^-1 r = D_b + w J_ba J_aa^-1 r,         w = 1,       (exact)

where ``J_ba u`` comes from one backward pass through the network, as ``J`` is
symmetric. Ho et al. (arXiv 2204.03458), rewritten for this forward process, have

    D_b <- D_b - w_r / (2 sigma_in) grad_b |r|^2 = D_b + w_r / sigma_in J_ba r:  (paper)

they replace ``J_aa`` by ``sigma_in``, that is, ``C_aa`` by ``(sigma_in sigma)^2``, the
variance of the noise. This holds where the noise is small compared with the
uncertainty of the clip; where it is large it corrects too little, and a larger ``w_r``
then corrects too much at lower levels. No constant is right: frames sampled with it
have the wrong variance (measured in docs/decisions.md). Rule "posterior" solves with
``J_aa`` itself: every backward pass gives ``J_ba u`` and ``J_aa u`` together, so
conjugate gradients cost only their passes, and the first step is the paper's gradient
with a weight computed for every sample and noise level,
``w_r = sigma_in <r, r> / <r, J_aa r>``. For Gaussian data it is exact after as many
passes as there are different known frames. For ``sigma -> 0``, ``J_aa`` is ``sigma_in``
and both rules are the same.

The estimate of a known frame is the frame itself, ``D_a = x_a``. The solution of the
sampling equation is then ``x_a / sigma_in + sigma eps``, which every solver follows
exactly: known frames are at the current noise level at every call, with constant noise
(except for churn). A sample ends on its last estimate, so known frames are returned
bit-equal.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from snapvideo_jax.diffusion.edm import EDM
from snapvideo_jax.diffusion.samplers import Denoise, Stepwise
from snapvideo_jax.io.messages import did_you_mean

RULES = ("posterior", "paper")
MOST = 2.0
"""Largest norm of a frame's correction, in multiples of the largest error of a known
frame."""


@dataclasses.dataclass(frozen=True)
class Reconstruction:
    """Settings of reconstruction guidance.

    Attributes:
      weight: 0 disables it, and known frames are ignored. For "posterior", the share
        ``w`` of the exact correction, 1; for "paper", ``w_r``.
      rule: "posterior" or "paper".
      products: backward passes of a call, for "posterior". One for every known frame is
        exact where pixels do not depend on each other; errors of the network grow with
        them, so more than 3 make samples worse.
    """

    weight: float = 1.0
    rule: str = "posterior"
    products: int = 2

    def __post_init__(self):
        if self.weight < 0:
            raise ValueError(
                f"reconstruction.weight={self.weight} is below 0; use 0 or more."
            )
        if self.rule not in RULES:
            hint = did_you_mean(self.rule, RULES)
            raise ValueError(f"reconstruction.rule={self.rule!r} is unknown; {hint}")
        if self.products < 1:
            raise ValueError(
                f"reconstruction.products={self.products} is too small; use at least 1."
            )


def is_known(known: tuple[int, ...] | list[int], frames: int) -> Bool[Array, "t"]:
    """True for the frames whose numbers, from 0, are in ``known``.

    Raises:
      ValueError: a number is out of range or repeated.
    """
    for number in known:
        if not 0 <= number < frames:
            raise ValueError(
                f"Known frame {number} is out of range; the clip has frames 0 to "
                f"{frames - 1}."
            )
    if len(set(known)) < len(known):
        raise ValueError(f"Known frames {tuple(known)} name a frame twice.")
    mask = [number in known for number in range(frames)]
    return jnp.array(mask)


def reconstruct(
    denoise: Denoise | Stepwise,
    known_clip: Float[Array, "b t *s"],
    known: Bool[Array, "t"],
    edm: EDM,
    settings: Reconstruction = Reconstruction(),  # noqa: B008
) -> Denoise | Stepwise:
    """``denoise``, conditioned on the known frames; outside the wrappers of guidance.

    Backward passes go through the network and its guidance; the guided estimate is
    corrected. Their memory is that of one network call under the model's ``remat``,
    whatever ``products``.

    Args:
      denoise: of clips ``b t ...``, guided or not, for all steps or one for each.
      known_clip: the known frames, in data scale; others are ignored.
      known: which frames are, see `is_known`.
      edm: gives ``sigma_in``.
      settings: weight, rule and backward passes.
    """
    if not settings.weight:
        return denoise
    if isinstance(denoise, Stepwise):
        at = denoise.at
        return Stepwise(
            lambda index: reconstruct(at(index), known_clip, known, edm, settings)
        )
    mask = _over_frames(known, known_clip)

    def conditioned(x, sigma, carry):
        clip, pull, carry = jax.vjp(lambda x: denoise(x, sigma, carry), x, has_aux=True)
        missing = jnp.where(mask, known_clip.astype(clip.dtype) - clip, 0.0)

        def product(u):
            """``J_aa u`` and ``J_ba u``, each zero in the frames of the other."""
            (full,) = pull(u)
            return jnp.where(mask, full, 0.0), jnp.where(mask, 0.0, full)

        if settings.rule == "paper":
            correction = product(missing)[1] / edm.sigma_in
        else:
            correction = _solve(product, missing, settings.products, edm.sigma_in)
            correction = _bounded(correction, missing)
        guided = clip + settings.weight * correction
        return jnp.where(mask, known_clip.astype(clip.dtype), guided), carry

    return conditioned


def _solve(product, missing, products: int, sigma_in: float):
    """``J_ba J_aa^-1 missing`` by conjugate gradients, for each sample separately.

    A network's Jacobian is only approximately that of an exact denoiser. Along
    directions in which ``J_aa`` is not positive, it is replaced by ``sigma_in``, as in
    the paper.
    """

    def follow(_, state):
        missing, left, direction, correction = state
        in_known, in_unknown = product(direction)
        gain = _dot(direction, in_known) / _or_one(_dot(direction, direction))
        gain = jnp.where(gain > 0, gain, sigma_in)
        length = left / _or_one(_dot(direction, direction) * gain)
        missing = missing - length * in_known
        now = _dot(missing, missing)
        direction = missing + now / _or_one(left) * direction
        return missing, now, direction, correction + length * in_unknown

    start = (missing, _dot(missing, missing), missing, jnp.zeros_like(missing))
    return jax.lax.fori_loop(0, products, follow, start)[-1]


def _bounded(correction, missing):
    """Each frame's correction, at most `MOST` times as large as the largest error.

    Between frames of similar variance an exact correction is never much larger than
    ``missing``. At high noise levels ``J`` is so small that a network's errors dominate
    it, and the quotient of two errors may take any value.
    """
    largest = jnp.sqrt(_per_frame(missing).max(axis=1, keepdims=True))
    size = jnp.sqrt(_per_frame(correction))
    return correction * jnp.minimum(1.0, MOST * largest / _or_one(size))


def _per_frame(clip: Array) -> Array:
    """Squares summed over a frame, with axes of size 1 to broadcast against clips."""
    return jnp.square(clip).sum(axis=range(2, clip.ndim), keepdims=True)


def _dot(first: Array, second: Array) -> Array:
    """Of every sample, with axes of size 1 to broadcast against clips."""
    return (first * second).sum(axis=range(1, first.ndim), keepdims=True)


def _or_one(value: Array) -> Array:
    """``value`` as a divisor, 1 where it is 0."""
    return jnp.where(value > 0, value, 1.0)


def _over_frames(known: Bool[Array, "t"], clip: Array) -> Array:
    return known.reshape(1, -1, *[1] * (clip.ndim - 2))
