"""C3D fine-tuned on UCF-101: the classifier of the Inception score of videos.

The network of Tran et al. (arXiv 1412.0767) as in TGAN's score (Saito et al., arXiv
1811.09245). It was trained on BGR frames minus their mean, and its pooling windows
extend over the edge (ceil mode), so that 7 x 7 becomes 4 x 4.
"""

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float

from snapvideo_jax.evaluation.nets.layers import HIGHEST, Convolution

CLASSES = 101
FRAMES, SIZE = 16, 112
STAGES = (
    (("conv1a", 64),),
    (("conv2a", 128),),
    (("conv3a", 256), ("conv3b", 256)),
    (("conv4a", 512), ("conv4b", 512)),
    (("conv5a", 512), ("conv5b", 512)),
)
"""Convolutions between poolings, and their channels."""
HIDDEN = 4096


class C3D(nn.Module):
    """Clips to logits of the 101 classes."""

    @nn.compact
    def __call__(self, clips: Float[Array, "b 16 112 112 3"]) -> Float[Array, "b o"]:
        """``clips`` are RGB in [0, 255]."""
        zeros, ones = nn.initializers.zeros, nn.initializers.ones
        gain = self.param("gain", ones, (1, 1, 1, 1, 1))
        offset = self.param("offset", zeros, (FRAMES, SIZE, SIZE, 3))
        x = clips[..., ::-1] * gain + offset[None]
        for number, stage in enumerate(STAGES):
            for name, features in stage:
                x = nn.relu(Convolution(features, (3, 3, 3), name=name)(x))
            window = (2 if number else 1, 2, 2)
            odd = ((0, 0), *((0, size % 2) for size in x.shape[2:4]))
            x = nn.max_pool(x, window, window, odd)
        # The kernel of the first layer counts channels first.
        x = rearrange(x, "b t h w c -> b (c t h w)")
        for name in ("fc6", "fc7"):
            x = nn.relu(nn.Dense(HIDDEN, precision=HIGHEST, name=name)(x))
        return nn.Dense(CLASSES, precision=HIGHEST, name="fc8")(x).astype(jnp.float32)
