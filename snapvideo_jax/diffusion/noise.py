"""PRNG keys of samples, and noise drawn from them."""

import jax
from jaxtyping import Array, Float

from snapvideo_jax.types import Keys


def sample_keys(key: Array, sample: Array) -> Keys:
    """The key of each sample, by its position in the global sequence."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, sample)


def fold_in(keys: Keys, tag: int | Array) -> Keys:
    """`jax.random.fold_in` of every key: keys of one use, which ``tag`` stands for."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, tag)


def normal(keys: Keys, shape: tuple[int, ...]) -> Float[Array, "b *s"]:
    """Standard normal noise of ``shape`` for every key."""
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)
