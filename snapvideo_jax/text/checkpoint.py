"""Loads the files of a T5 encoder as sharded parameters of `models.t5`.

The shard of every device is read separately, one array after the other, so that host
memory holds the encoder and its largest array at most.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from snapvideo_jax.models.t5 import T5Encoder
from snapvideo_jax.parallel.sharding import state_shardings
from snapvideo_jax.text.files import Weights

_SELF, _FF = "encoder.block.{}.layer.0.", "encoder.block.{}.layer.1."
TENSORS = {
    "embedding": "shared.weight",
    "position_bias": _SELF.format(0) + "SelfAttention.relative_attention_bias.weight",
    "blocks/attention_norm/scale": _SELF + "layer_norm.weight",
    "blocks/query/kernel": _SELF + "SelfAttention.q.weight",
    "blocks/key/kernel": _SELF + "SelfAttention.k.weight",
    "blocks/value/kernel": _SELF + "SelfAttention.v.weight",
    "blocks/out/kernel": _SELF + "SelfAttention.o.weight",
    "blocks/feed_forward_norm/scale": _FF + "layer_norm.weight",
    "blocks/gate/kernel": _FF + "DenseReluDense.wi_0.weight",
    "blocks/hidden/kernel": _FF + "DenseReluDense.wi.weight",
    "blocks/hidden_out/kernel": _FF + "DenseReluDense.wo.weight",
    "norm/scale": "encoder.final_layer_norm.weight",
}
"""Tensors in the files by our parameters; {} is the number of a layer."""


def load_params(folder: Path, model: T5Encoder, mesh) -> Any:
    """The encoder's parameters on a mesh, sharded by the rules of `sharding`.

    Matrices are stored in ``model.dtype``, norms and the position bias in float32.

    Raises:
      ValueError: files are missing or damaged, or tensors are missing, unknown or of
        another shape.
    """
    boxed = abstract_params(model)
    weights = Weights(folder)
    leaves, tree = jax.tree_util.tree_flatten_with_path(nn.unbox(boxed))
    sources = [_Source.of(path, leaf.shape, model) for path, leaf in leaves]
    weights.check({name: source.shape for source in sources for name in source.names})
    places = jax.tree.leaves(state_shardings(boxed, mesh))
    arrays = [
        jax.make_array_from_callback(leaf.shape, place, source.reader(weights))
        for (_, leaf), place, source in zip(leaves, places, sources, strict=True)
    ]
    return jax.tree.unflatten(tree, arrays)


def abstract_params(model: T5Encoder) -> Any:
    """Shapes of the parameters, boxed with their logical axes."""
    ids, mask = jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), bool)
    return jax.eval_shape(model.init, jax.random.key(0), ids, mask)["params"]


@dataclasses.dataclass(frozen=True)
class _Source:
    """The tensors of one of our parameters.

    names: of the tensors; one per layer where the parameter's first axis is layers.
    shape: of each tensor in the files.
    is_stacked: the first axis is layers.
    is_kernel: the parameter is the transpose of the tensor.
    dtype: of the parameter.
    """

    names: list[str]
    shape: tuple[int, ...]
    is_stacked: bool
    is_kernel: bool
    dtype: Any

    @staticmethod
    def of(path, shape: tuple[int, ...], model: T5Encoder) -> "_Source":
        where = "/".join(part.key for part in path)
        name = TENSORS[where]
        if model.sizes.gated:
            name = name.replace(".wi.", ".wi_1.")
        is_stacked, is_kernel = where.startswith("blocks/"), where.endswith("kernel")
        is_matrix = is_kernel or where == "embedding"
        one = shape[1:] if is_stacked else shape
        return _Source(
            names=[name.format(i) for i in range(model.sizes.layers)]
            if is_stacked
            else [name],
            shape=one[::-1] if is_kernel else one,
            is_stacked=is_stacked,
            is_kernel=is_kernel,
            dtype=jnp.dtype(model.dtype if is_matrix else "float32"),
        )

    def reader(self, weights: Weights) -> Callable[..., np.ndarray]:
        """A function that reads a shard; devices with the same shard read it once."""
        shards: dict[str, np.ndarray] = {}

        def read(index: tuple[slice, ...]) -> np.ndarray:
            if str(index) not in shards:
                shards[str(index)] = self._read(weights, index)
            return shards[str(index)]

        return read

    def _read(self, weights: Weights, index: tuple[slice, ...]) -> np.ndarray:
        if not self.is_stacked:
            return self._tensor(weights, self.names[0], index)
        names, part = self.names[index[0]], index[1:]
        first = self._tensor(weights, names[0], part)
        whole = np.empty((len(names), *first.shape), self.dtype)
        whole[0] = first
        for layer, name in enumerate(names[1:], 1):
            whole[layer] = self._tensor(weights, name, part)
        return whole

    def _tensor(self, weights: Weights, name: str, part) -> np.ndarray:
        if self.is_kernel:
            return weights.read(name, part[::-1]).T.astype(self.dtype)
        return weights.read(name, part).astype(self.dtype)
