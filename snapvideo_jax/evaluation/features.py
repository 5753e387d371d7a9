"""A metric network on the devices of this process: rows in, float32 features out.

Each process scores its own shards on its own devices, so none waits for another. Rows
are filled up to one size, divided over all devices, and what was filled in is cut off
again: a network is compiled once.
"""

import functools
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Float32, Shaped

from snapvideo_jax.evaluation.nets import CLIP, NETWORKS
from snapvideo_jax.evaluation.tokenizer import Tokenizer
from snapvideo_jax.evaluation.weights.convert import Weights
from snapvideo_jax.parallel.sharding import (
    MeshConfig,
    batch_sharding,
    make_mesh,
    round_up_to_devices,
)

Rows = Shaped[np.ndarray, "b *s"]


def local_mesh():
    """All devices of this process, side by side."""
    devices = jax.local_devices()
    return make_mesh(MeshConfig(), len(devices), devices)


class Extractor:
    """A function of rows, compiled for one number of them.

    Args:
      network: one of `NETWORKS`.
      weights: its parameters.
      rows: that are computed at once; rounded up to what the devices can share.
      settings: of its module.
      method: of the module; None calls it.
      mesh: devices.
    """

    def __init__(
        self,
        network: str,
        weights: Weights,
        rows: int,
        settings: dict | None = None,
        method=None,
        mesh=None,
    ):
        mesh = local_mesh() if mesh is None else mesh
        self._rows = round_up_to_devices(rows, mesh)
        self._place = batch_sharding(mesh)
        whole = NamedSharding(mesh, PartitionSpec())
        self._params = jax.device_put({"params": weights.params}, whole)
        module = NETWORKS[network].module(**(settings or {}))
        apply = functools.partial(module.apply, method=method)
        self._apply = jax.jit(apply, out_shardings=self._place)

    def __call__(self, rows: Rows) -> Float32[np.ndarray, "b d"]:
        """The features of any number of rows."""
        parts = [
            self._full(rows[first : first + self._rows])
            for first in range(0, len(rows), self._rows)
        ]
        return np.concatenate(parts)

    def _full(self, rows: Rows) -> Float32[np.ndarray, "b d"]:
        empty = np.zeros((self._rows - len(rows), *rows.shape[1:]), rows.dtype)
        filled = np.concatenate([rows, empty]) if len(empty) else rows
        features = self._apply(self._params, jax.device_put(filled, self._place))
        return np.asarray(features)[: len(rows)]


class Captions:
    """Embeddings of captions, each of which is made once.

    Args:
      tokenizer: of CLIP.
      weights: of CLIP.
      rows: captions at once.
      mesh: devices.

    Attributes:
      cut: captions so far that were longer than CLIP reads.
    """

    def __init__(self, tokenizer: Tokenizer, weights: Weights, rows: int, mesh=None):
        self._tokenizer = tokenizer
        self._extract = Extractor("clip", weights, rows, method=CLIP.text, mesh=mesh)
        self._known: dict[str, np.ndarray] = {}
        self.cut = 0

    def __call__(self, captions: Sequence[str]) -> Float32[np.ndarray, "b d"]:
        new = [x for x in dict.fromkeys(captions) if x not in self._known]
        if new:
            tokens, cut = self._tokenizer.encode(new)
            self.cut += cut
            self._known |= zip(new, self._extract(tokens), strict=True)
        return np.stack([self._known[caption] for caption in captions])


def cosines(
    one: Float32[np.ndarray, "b *n d"], other: Float32[np.ndarray, "b *m d"]
) -> Float32[np.ndarray, "b *n"]:
    """Of the angles between vectors of any length; 1 of the other axes fits many."""
    unit = [x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (one, other)]
    return np.sum(unit[0] * unit[1], axis=-1)
