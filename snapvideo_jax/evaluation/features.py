"""Runs a metric network on the devices of this process: rows in, float32 features out.

Each process scores its own shards on its own devices, so none waits for another. Every
batch is padded to one size and sharded over all devices, so a network compiles once.
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
    """A mesh of all devices of this process."""
    devices = jax.local_devices()
    return make_mesh(MeshConfig(), len(devices), devices)


class Extractor:
    """A network's features of any number of rows, compiled for one batch size.

    Args:
      network: one of `NETWORKS`.
      weights: its parameters.
      rows: batch size; rounded up to a multiple of the number of devices.
      settings: fields of its module.
      method: of the module; None is ``__call__``.
      mesh: devices; None is `local_mesh`.
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
        self._sharding = batch_sharding(mesh)
        replicated = NamedSharding(mesh, PartitionSpec())
        self._params = jax.device_put({"params": weights.params}, replicated)
        module = NETWORKS[network].module(**(settings or {}))
        apply = functools.partial(module.apply, method=method)
        self._apply = jax.jit(apply, out_shardings=self._sharding)

    def __call__(self, rows: Rows) -> Float32[np.ndarray, "b d"]:
        parts = [
            self._batch(rows[first : first + self._rows])
            for first in range(0, len(rows), self._rows)
        ]
        return np.concatenate(parts)

    def _batch(self, rows: Rows) -> Float32[np.ndarray, "b d"]:
        padding = np.zeros((self._rows - len(rows), *rows.shape[1:]), rows.dtype)
        padded = np.concatenate([rows, padding]) if len(padding) else rows
        features = self._apply(self._params, jax.device_put(padded, self._sharding))
        return np.asarray(features)[: len(rows)]


class CaptionEmbedder:
    """CLIP embeddings of captions; each caption is embedded once.

    Args:
      tokenizer: of CLIP.
      weights: of CLIP.
      rows: batch size.
      mesh: devices; None is `local_mesh`.

    Attributes:
      cut: number of captions so far that exceeded CLIP's context and were truncated.
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


def cosine_similarity(
    one: Float32[np.ndarray, "b *n d"], other: Float32[np.ndarray, "b *m d"]
) -> Float32[np.ndarray, "b *n"]:
    """Cosines between vectors along the last axis; the other axes broadcast."""
    unit = [x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (one, other)]
    return np.sum(unit[0] * unit[1], axis=-1)
