"""I3D on Kinetics-400 (Carreira and Zisserman, arXiv 1705.07750): the network of FVD.

Inception-v1 with kernels that also extend over time. All padding is TensorFlow's SAME,
as is XLA's. FVD (Unterthiner et al., arXiv 1812.01717) compares its 400 logits before
the softmax, averaged over time.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from snapvideo_jax.evaluation.nets.layers import Convolution, Unit

CLASSES = 400
MIN_FRAMES = 9
"""With fewer, the last pooling has less than two steps in time."""
MIXED = {
    "3b": (64, 96, 128, 16, 32, 32),
    "3c": (128, 128, 192, 32, 96, 64),
    "4b": (192, 96, 208, 16, 48, 64),
    "4c": (160, 112, 224, 24, 64, 64),
    "4d": (128, 128, 256, 24, 64, 64),
    "4e": (112, 144, 288, 32, 64, 64),
    "4f": (256, 160, 320, 32, 128, 128),
    "5b": (256, 160, 320, 32, 128, 128),
    "5c": (384, 192, 384, 48, 128, 128),
}
"""Channels of a block: 1x1 | 1x1, 3x3x3 | 1x1, 3x3x3 | pool, 1x1."""
POOLED_BEFORE = {
    "3b": ((1, 3, 3), (1, 2, 2)),
    "4b": ((3, 3, 3), (2, 2, 2)),
    "5b": ((2, 2, 2), (2, 2, 2)),
}
"""Window and strides of the pooling before a block."""


class I3D(nn.Module):
    """Clips to logits.

    Attributes:
      epsilon: of the norms; 1e-3 in the TensorFlow graph, 1e-5 in some ports.
    """

    epsilon: float = 1e-3

    @nn.compact
    def __call__(self, clips: Float[Array, "b t 224 224 3"]) -> Float[Array, "b o"]:
        """Mean logits over time.

        Args:
          clips: in [-1, 1], of `MIN_FRAMES` frames or more.

        Raises:
          ValueError: there are fewer frames.
        """
        if clips.shape[1] < MIN_FRAMES:
            raise ValueError(
                f"I3D was given {clips.shape[1]} frames; use {MIN_FRAMES} or more."
            )
        x = Unit(64, (7, 7, 7), (2, 2, 2), epsilon=self.epsilon, name="conv1a")(clips)
        x = nn.max_pool(x, (1, 3, 3), (1, 2, 2), "SAME")
        x = Unit(64, (1, 1, 1), epsilon=self.epsilon, name="conv2b")(x)
        x = Unit(192, (3, 3, 3), epsilon=self.epsilon, name="conv2c")(x)
        for block, channels in MIXED.items():
            if block in POOLED_BEFORE:
                x = nn.max_pool(x, *POOLED_BEFORE[block], "SAME")
            x = Mixed(channels, self.epsilon, name=f"mixed{block}")(x)
        x = nn.avg_pool(x, (2, 7, 7), (1, 1, 1), "VALID")
        logits = Convolution(CLASSES, (1, 1, 1), name="logits")(x)
        return logits.mean(axis=(1, 2, 3))


class Mixed(nn.Module):
    """Four parallel branches; see `MIXED`."""

    channels: tuple[int, ...]
    epsilon: float

    @nn.compact
    def __call__(self, x: Float[Array, "b t h w i"]) -> Float[Array, "b t h w o"]:
        a, b, c, d, e, f = self.channels

        def unit(name, features, size):
            return Unit(features, (size,) * 3, epsilon=self.epsilon, name=name)

        pooled = nn.max_pool(x, (3, 3, 3), (1, 1, 1), "SAME")
        branches = (
            unit("b0", a, 1)(x),
            unit("b1b", c, 3)(unit("b1a", b, 1)(x)),
            unit("b2b", e, 3)(unit("b2a", d, 1)(x)),
            unit("b3b", f, 1)(pooled),
        )
        return jnp.concatenate(branches, axis=-1)
