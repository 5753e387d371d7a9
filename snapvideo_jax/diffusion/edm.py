"""The EDM diffusion framework, rescaled for video (Sec. 3.1-3.3, Tab. 1).

A video holds far more redundant pixels than the 64 px images EDM was designed for:
averaging a ``T x s x s`` block lowers the variance of the noise by ``T s^2``, so at an
equal ``sigma`` a video is corrupted less than EDM intends. Snap Video
restores the signal-to-noise ratio by scaling the *signal* down by ``sigma_in``,

    x_sigma = x / sigma_in + sigma * eps,        eps ~ N(0, I),

and re-derives every function of the framework for it. All arithmetic is float32 (or
float64 where the caller passes it), whatever the dtype of the network.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from snapvideo_jax.types import Keys

Sigma = Float[Array, "*b"]


@dataclasses.dataclass(frozen=True)
class EDM:
    """Preconditioning, loss weight and noise distribution of the rescaled EDM.

    Its fields give all rows of Tab. 3: the original EDM is ``sigma_data=0.5,
    sigma_in=1`` (there the denoiser equals EDM's with ``F`` negated), the other rows
    change ``sigma_data``, ``sigma_in`` or ``images_as_videos``.

    Attributes:
      sigma_in: factor the signal is divided by, ``s sqrt(T)`` for frames ``s`` times
        64 px wide. [P] Sec. 3.2: 4 for stage 1, 32 for stage 2.
      sigma_data: assumed standard deviation of the data. [P] 1; EDM has 0.5.
      p_mean, p_std: mean and standard deviation of ``ln sigma`` in training.
        [P: unaltered EDM].
      sigma_min, sigma_max, rho: range and curvature of the sampling schedule.
        [P: unaltered EDM].
      images_as_videos: an image is a video of equal frames (Sec. 3.3). If False it is
        a single frame, diffused with ``image_sigma_in`` (row 4 of Tab. 3).
      image_sigma_in: ``sigma_in`` of images where they are not videos.
    """

    sigma_in: float = 4.0
    sigma_data: float = 1.0
    p_mean: float = -1.2
    p_std: float = 1.2
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0
    images_as_videos: bool = True
    image_sigma_in: float = 1.0

    def __post_init__(self):
        for name in ("sigma_in", "sigma_data", "p_std", "rho", "image_sigma_in"):
            if getattr(self, name) <= 0:
                raise ValueError(
                    f"diffusion.{name}={getattr(self, name)} must be positive."
                )
        if not 0 < self.sigma_min < self.sigma_max:
            raise ValueError(
                f"diffusion.sigma_min={self.sigma_min} must lie between 0 and "
                f"diffusion.sigma_max={self.sigma_max}."
            )

    def for_images(self) -> "EDM":
        """The framework for images: the same one unless they are not videos."""
        if self.images_as_videos:
            return self
        return dataclasses.replace(self, sigma_in=self.image_sigma_in)

    # Tab. 1, column "Snap Video".

    def c_in(self, sigma: Sigma) -> Sigma:
        """Scale of the network's input, giving it unit variance."""
        return 1 / jnp.sqrt(self.sigma_data**2 / self.sigma_in**2 + sigma**2)

    def c_skip(self, sigma: Sigma) -> Sigma:
        """Weight of the noisy input in the denoised output."""
        variance = self.sigma_data**2
        return self.sigma_in * variance / (self.sigma_in * sigma**2 + variance)

    def c_out(self, sigma: Sigma) -> Sigma:
        """Weight of the network's output in the denoised output."""
        variance = self.sigma_data**2
        scale = self.sigma_in * sigma * self.sigma_data * jnp.sqrt(sigma**2 + variance)
        return -scale / (variance + self.sigma_in * sigma**2)

    def c_noise(self, sigma: Sigma) -> Sigma:
        """The network's encoding of the noise level. [P: unaltered EDM]."""
        return jnp.log(sigma) / 4

    def c_nrm(self, sigma: Sigma) -> Sigma:
        """Scale that gives the training target of ``F`` unit variance."""
        return 1 / (self.sigma_data * jnp.sqrt(sigma**2 + self.sigma_data**2))

    def loss_weight(self, sigma: Sigma) -> Sigma:
        """``lambda``: weight of the squared error of the denoised output."""
        return 1 / self.sigma_data**2 + 1 / sigma**2

    def effective_weight(self, sigma: Sigma) -> Sigma:
        """``w = lambda c_out^2``: weight of the squared error of ``F``.

        Differs: Eq. 39-42 carry a sign slip; this is the consistent form,
        ``lambda |D - x|^2 = w |F - c_nrm F_tgt|^2``.
        """
        variance = self.sigma_data**2
        return ((sigma**2 + variance) / (sigma**2 + variance / self.sigma_in)) ** 2

    def target(
        self,
        clip: Float[Array, "*s"],
        eps: Float[Array, "*s"],
        sigma: Float[Array, "*q"],
    ) -> Float[Array, "*s"]:
        """``F_tgt = sigma_data^2 eps - sigma x``, a v-prediction at sigma_data 1.

        ``sigma`` must broadcast against ``clip``.
        """
        return self.sigma_data**2 * eps - sigma * clip

    # The forward process, the denoised clip and the loss.

    def corrupt(
        self,
        clip: Float[Array, "*s"],
        eps: Float[Array, "*s"],
        sigma: Float[Array, "*q"],
    ) -> Float[Array, "*s"]:
        """``x_sigma``, the clip at noise level ``sigma`` (which must broadcast)."""
        return clip / self.sigma_in + sigma * eps

    def denoised(
        self,
        noisy: Float[Array, "b *s"],
        output: Float[Array, "b *s"],
        sigma: Float[Array, "b"],
    ) -> Float[Array, "b *s"]:
        """``D = c_skip x_sigma + c_out F``: the estimate of the clip, in float32."""
        level = broadcast(sigma, noisy)
        return self.c_skip(level) * noisy + self.c_out(level) * output

    def loss(
        self,
        output: Float[Array, "b *s"],
        clip: Float[Array, "b *s"],
        eps: Float[Array, "b *s"],
        sigma: Float[Array, "b"],
    ) -> Float[Array, "b"]:
        """The loss of each sample, averaged over its elements, from ``F``.

        ``w |F - c_nrm F_tgt|^2`` equals ``lambda |D - x|^2`` but does not subtract two
        nearly equal clips at small ``sigma``.
        """
        level = broadcast(sigma, clip)
        error = output - self.c_nrm(level) * self.target(clip, eps, level)
        per_sample = jnp.square(error).mean(axis=range(1, error.ndim))
        return self.effective_weight(sigma) * per_sample

    def training_sigma(self, keys: Keys) -> Float[Array, "b"]:
        """A noise level per sample, ``ln sigma ~ N(p_mean, p_std^2)``."""
        normal = jax.vmap(jax.random.normal)(keys)
        return jnp.exp(self.p_mean + self.p_std * normal)


def broadcast(sigma: Float[Array, "b"], like: Float[Array, "b *s"]) -> Array:
    """``sigma`` with trailing axes of size 1, to broadcast against clips."""
    return jnp.expand_dims(sigma, range(1, like.ndim))
