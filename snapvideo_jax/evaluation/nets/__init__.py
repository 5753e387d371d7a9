"""The metric networks, and what the rest of the package has to know of each."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from snapvideo_jax.evaluation.nets.c3d import C3D
from snapvideo_jax.evaluation.nets.clip import CLIP, CLIPSizes
from snapvideo_jax.evaluation.nets.i3d import I3D
from snapvideo_jax.evaluation.nets.inception import Inception

__all__ = ["C3D", "CLIP", "CLIPSizes", "I3D", "Inception", "NETWORKS", "Network"]

Params = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Network:
    """A metric network.

    name: as in ``snapvideo convert --network``.
    module: class of the module; takes the settings of a preprocessing variant.
    inputs: shapes and dtypes of a batch of one, to initialise parameters with.
    used_for: its metrics, for messages.
    """

    name: str
    module: Callable[..., nn.Module]
    inputs: tuple[tuple[tuple[int, ...], str], ...]
    used_for: str

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every parameter, by its path."""
        return dict(_shapes(self))


@functools.cache
def _shapes(network: Network) -> tuple[tuple[str, tuple[int, ...]], ...]:
    examples = [jax.ShapeDtypeStruct(*each) for each in network.inputs]
    tree = jax.eval_shape(network.module().init, jax.random.key(0), *examples)
    leaves = flatten_dict(tree["params"], sep="/")
    return tuple((path, leaf.shape) for path, leaf in leaves.items())


NETWORKS = {
    network.name: network
    for network in (
        Network("i3d", I3D, (((1, 16, 224, 224, 3), "float32"),), "FVD"),
        Network("inception", Inception, (((1, 299, 299, 3), "float32"),), "FID"),
        Network("c3d", C3D, (((1, 16, 112, 112, 3), "float32"),), "IS"),
        Network(
            "clip",
            CLIP,
            (((1, 224, 224, 3), "float32"), ((1, 77), "int32")),
            "CLIPSIM, CLIP-FID",
        ),
    )
}


def random_params(network: str, seed: int) -> Params:
    """Random weights and norms, to try everything out without published weights.

    Kernels preserve the scale of activations, so that features differ between clips.
    """
    rng = np.random.default_rng([seed, list(NETWORKS).index(network)])
    leaves = {}
    for path, shape in NETWORKS[network].shapes().items():
        noise = rng.standard_normal(shape, np.float32)
        leaves[path] = _scaled(path.rpartition("/")[2], noise)
    return unflatten_dict(leaves, sep="/")


def _scaled(name: str, noise: np.ndarray) -> np.ndarray:
    if name in ("var", "scale", "gain"):
        return 1 + np.abs(noise) / 5
    if name in ("kernel", "fc"):
        inputs = int(np.prod(noise.shape[:-1]))
        return noise * np.float32((2 / inputs) ** 0.5)
    return noise / 10
