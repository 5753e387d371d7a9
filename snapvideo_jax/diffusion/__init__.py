"""The rescaled EDM, its samplers and guidance: pure functions over a denoiser."""

from snapvideo_jax.diffusion.edm import EDM, broadcast
from snapvideo_jax.diffusion.guidance import (
    Guidance,
    autoguidance,
    classifier_free_guidance,
    duplicate,
    dynamic_thresholding,
    interleave,
    oscillation,
    with_guidance,
)
from snapvideo_jax.diffusion.reconstruction import Reconstruction, is_known, reconstruct
from snapvideo_jax.diffusion.samplers import (
    Denoise,
    Sampler,
    Stepwise,
    first_step,
    initial_noise,
    noised,
    sample,
    sigma_schedule,
)
from snapvideo_jax.diffusion.solvers import SOLVERS

__all__ = [
    "EDM",
    "SOLVERS",
    "Denoise",
    "Guidance",
    "Reconstruction",
    "Sampler",
    "Stepwise",
    "autoguidance",
    "broadcast",
    "classifier_free_guidance",
    "duplicate",
    "dynamic_thresholding",
    "first_step",
    "initial_noise",
    "interleave",
    "is_known",
    "noised",
    "oscillation",
    "reconstruct",
    "sample",
    "sigma_schedule",
    "with_guidance",
]
