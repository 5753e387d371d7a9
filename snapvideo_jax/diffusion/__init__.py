"""The rescaled EDM, its samplers and guidance: pure functions over a denoiser."""

from snapvideo_jax.diffusion.edm import EDM, broadcast
from snapvideo_jax.diffusion.guidance import classifier_free_guidance, twice
from snapvideo_jax.diffusion.samplers import (
    SOLVERS,
    Denoise,
    Sampler,
    initial_noise,
    sample,
    sigma_schedule,
)

__all__ = [
    "EDM",
    "SOLVERS",
    "Denoise",
    "Sampler",
    "broadcast",
    "classifier_free_guidance",
    "initial_noise",
    "sample",
    "sigma_schedule",
    "twice",
]
