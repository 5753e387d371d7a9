"""Networks: ``(noisy, c_noise, context, previous, train) -> (F, carry)``.

`network.Network` is the interface that all of them implement.
"""

from snapvideo_jax.models.dit import DiT
from snapvideo_jax.models.fit import FIT
from snapvideo_jax.models.network import Network
from snapvideo_jax.models.unet import UNet

MODELS = {"fit": FIT, "unet": UNet, "dit": DiT}

__all__ = ["FIT", "MODELS", "DiT", "Network", "UNet"]
