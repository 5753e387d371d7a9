"""InceptionV3 as in TensorFlow's graph of 2015-12-05: the network of FID.

It differs from the InceptionV3 of classifiers (Szegedy et al., arXiv 1512.00567):
average pooling excludes padding, the last block uses max pooling, and there are 1,008
classes. FID (Heusel et al., arXiv 1706.08500) compares the 2,048 channels before the
classifier.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from snapvideo_jax.evaluation.nets.layers import HIGHEST, Unit

FEATURES, CLASSES = 2048, 1008
SIZE = 299


class Inception(nn.Module):
    """Images to features, or to the logits of the Inception score.

    Attributes:
      logits: return logits without the last bias, which that score uses.
    """

    logits: bool = False

    @nn.compact
    def __call__(self, pictures: Float[Array, "b h w 3"]) -> Float[Array, "b o"]:
        """``pictures`` are in [-1, 1]; the metrics use `SIZE` x `SIZE` pixels."""
        x = Unit(32, (3, 3), (2, 2), "VALID", name="conv1a")(pictures)
        x = Unit(32, (3, 3), None, "VALID", name="conv2a")(x)
        x = Unit(64, (3, 3), name="conv2b")(x)
        x = _shrink(x)
        x = Unit(80, (1, 1), name="conv3b")(x)
        x = Unit(192, (3, 3), None, "VALID", name="conv4a")(x)
        x = _shrink(x)
        for name, pooled in (("5b", 32), ("5c", 64), ("5d", 64)):
            x = BlockA(pooled, name=f"mixed{name}")(x)
        x = BlockB(name="mixed6a")(x)
        for name, channels in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
            x = BlockC(channels, name=f"mixed{name}")(x)
        x = BlockD(name="mixed7a")(x)
        x = BlockE(_average, name="mixed7b")(x)
        x = BlockE(_maximum, name="mixed7c")(x)
        x = x.mean(axis=(1, 2))
        kernel = self.param(
            "fc", nn.initializers.lecun_normal(), (FEATURES, CLASSES), jnp.float32
        )
        return jnp.dot(x, kernel, precision=HIGHEST) if self.logits else x


def _shrink(x: Float[Array, "b h w c"]) -> Float[Array, "b y x c"]:
    return nn.max_pool(x, (3, 3), (2, 2), "VALID")


def _average(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    return nn.avg_pool(x, (3, 3), (1, 1), "SAME", count_include_pad=False)


def _maximum(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    return nn.max_pool(x, (3, 3), (1, 1), "SAME")


def _through(x, *units: Unit):
    for unit in units:
        x = unit(x)
    return x


class BlockA(nn.Module):
    """35 x 35: 1x1 | 1x1, 5x5 | 1x1, 3x3, 3x3 | average, 1x1."""

    pooled: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h w o"]:
        branches = (
            Unit(64, (1, 1), name="branch1x1")(x),
            _through(
                x,
                Unit(48, (1, 1), name="branch5x5_1"),
                Unit(64, (5, 5), name="branch5x5_2"),
            ),
            _through(
                x,
                Unit(64, (1, 1), name="branch3x3dbl_1"),
                Unit(96, (3, 3), name="branch3x3dbl_2"),
                Unit(96, (3, 3), name="branch3x3dbl_3"),
            ),
            Unit(self.pooled, (1, 1), name="branch_pool")(_average(x)),
        )
        return jnp.concatenate(branches, axis=-1)


class BlockB(nn.Module):
    """35 x 35 to 17 x 17: 3x3 | 1x1, 3x3, 3x3 | maximum."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b y x o"]:
        branches = (
            Unit(384, (3, 3), (2, 2), "VALID", name="branch3x3")(x),
            _through(
                x,
                Unit(64, (1, 1), name="branch3x3dbl_1"),
                Unit(96, (3, 3), name="branch3x3dbl_2"),
                Unit(96, (3, 3), (2, 2), "VALID", name="branch3x3dbl_3"),
            ),
            _shrink(x),
        )
        return jnp.concatenate(branches, axis=-1)


class BlockC(nn.Module):
    """17 x 17: 1x1 | 1x1, 1x7, 7x1 | 1x1, 7x1, 1x7, 7x1, 1x7 | average, 1x1."""

    channels: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h w o"]:
        c = self.channels
        branches = (
            Unit(192, (1, 1), name="branch1x1")(x),
            _through(
                x,
                Unit(c, (1, 1), name="branch7x7_1"),
                Unit(c, (1, 7), name="branch7x7_2"),
                Unit(192, (7, 1), name="branch7x7_3"),
            ),
            _through(
                x,
                Unit(c, (1, 1), name="branch7x7dbl_1"),
                Unit(c, (7, 1), name="branch7x7dbl_2"),
                Unit(c, (1, 7), name="branch7x7dbl_3"),
                Unit(c, (7, 1), name="branch7x7dbl_4"),
                Unit(192, (1, 7), name="branch7x7dbl_5"),
            ),
            Unit(192, (1, 1), name="branch_pool")(_average(x)),
        )
        return jnp.concatenate(branches, axis=-1)


class BlockD(nn.Module):
    """17 x 17 to 8 x 8: 1x1, 3x3 | 1x1, 1x7, 7x1, 3x3 | maximum."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b y x o"]:
        branches = (
            _through(
                x,
                Unit(192, (1, 1), name="branch3x3_1"),
                Unit(320, (3, 3), (2, 2), "VALID", name="branch3x3_2"),
            ),
            _through(
                x,
                Unit(192, (1, 1), name="branch7x7x3_1"),
                Unit(192, (1, 7), name="branch7x7x3_2"),
                Unit(192, (7, 1), name="branch7x7x3_3"),
                Unit(192, (3, 3), (2, 2), "VALID", name="branch7x7x3_4"),
            ),
            _shrink(x),
        )
        return jnp.concatenate(branches, axis=-1)


class BlockE(nn.Module):
    """8 x 8: 1x1 | 1x1, 1x3 and 3x1 | 1x1, 3x3, 1x3 and 3x1 | a pooling, 1x1."""

    pool: object

    @nn.compact
    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h w 2048"]:
        three = Unit(384, (1, 1), name="branch3x3_1")(x)
        double = _through(
            x,
            Unit(448, (1, 1), name="branch3x3dbl_1"),
            Unit(384, (3, 3), name="branch3x3dbl_2"),
        )
        branches = (
            Unit(320, (1, 1), name="branch1x1")(x),
            Unit(384, (1, 3), name="branch3x3_2a")(three),
            Unit(384, (3, 1), name="branch3x3_2b")(three),
            Unit(384, (1, 3), name="branch3x3dbl_3a")(double),
            Unit(384, (3, 1), name="branch3x3dbl_3b")(double),
            Unit(192, (1, 1), name="branch_pool")(self.pool(x)),
        )
        return jnp.concatenate(branches, axis=-1)
