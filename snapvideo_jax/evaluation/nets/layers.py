"""Layers of the metric networks: a convolution and a frozen batch norm, in float32.

Scores are compared across machines, and a TPU rounds the operands of products to
bfloat16 by default: everything here uses the highest precision.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

HIGHEST = jax.lax.Precision.HIGHEST


class Convolution(nn.Module):
    """A convolution with a bias, channels last, over any number of axes.

    Attributes:
      features: of the output.
      kernel: sizes along the spatial axes.
      strides: along the spatial axes; None is 1.
      padding: "SAME" or "VALID" as in TensorFlow, or pairs of numbers.
      use_bias: adds a bias.
    """

    features: int
    kernel: tuple[int, ...]
    strides: tuple[int, ...] | None = None
    padding: str | tuple[tuple[int, int], ...] = "SAME"
    use_bias: bool = True

    @nn.compact
    def __call__(self, values: Float[Array, "b *s i"]) -> Float[Array, "b *t o"]:
        return nn.Conv(
            self.features,
            self.kernel,
            self.strides,
            self.padding,
            use_bias=self.use_bias,
            precision=HIGHEST,
            name="conv",
        )(values)


class Unit(nn.Module):
    """A convolution without a bias, a frozen batch norm, and a ReLU.

    Attributes:
      features, kernel, strides, padding: of the `Convolution`.
      epsilon: of the norm.
    """

    features: int
    kernel: tuple[int, ...]
    strides: tuple[int, ...] | None = None
    padding: str | tuple[tuple[int, int], ...] = "SAME"
    epsilon: float = 1e-3

    @nn.compact
    def __call__(self, values: Float[Array, "b *s i"]) -> Float[Array, "b *t o"]:
        out = Convolution(
            self.features, self.kernel, self.strides, self.padding, False, name="unit"
        )(values)
        return nn.relu(FrozenNorm(self.epsilon, name="norm")(out))


class FrozenNorm(nn.Module):
    """A batch norm whose mean and variance are parameters."""

    epsilon: float

    @nn.compact
    def __call__(self, values: Float[Array, "b *s c"]) -> Float[Array, "b *s c"]:
        shape = values.shape[-1:]
        zeros, ones = nn.initializers.zeros, nn.initializers.ones
        mean, bias = (self.param(name, zeros, shape) for name in ("mean", "bias"))
        var, scale = (self.param(name, ones, shape) for name in ("var", "scale"))
        factor = scale / jnp.sqrt(var + self.epsilon)
        mean, factor, bias = (
            jnp.expand_dims(x, range(values.ndim - 1)) for x in (mean, factor, bias)
        )
        return (values - mean) * factor + bias
