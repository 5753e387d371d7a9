"""Networks: ``(noisy, c_noise, context, previous, train) -> (F, carry)``."""

from snapvideo_jax.models.fit import FIT

MODELS = {"fit": FIT}

__all__ = ["FIT", "MODELS"]
