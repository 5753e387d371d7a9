"""Inputs of the metric tests: clips, and checkpoints with random tensors."""

import dataclasses

import numpy as np

from snapvideo_jax.evaluation.nets import CLIP, NETWORKS, CLIPSizes
from snapvideo_jax.evaluation.weights.layouts import LAYOUTS

FLAT = CLIPSizes(
    patch=112, width=16, layers=1, heads=2, text_width=16, text_layers=1, text_heads=2,
    vocabulary=600,
)  # fmt: skip
"""A small CLIP with the input and output shapes of the original."""


def flat_clip():
    return dataclasses.replace(NETWORKS["clip"], module=lambda: CLIP(FLAT))


def foreign(network, layout, seed=0):
    """Random tensors by the names and in the shapes of a layout."""
    (layout,) = [each for each in LAYOUTS[network] if each.name == layout]
    rng = np.random.default_rng(seed)
    shapes = NETWORKS[network].shapes()
    tensors = {}
    for path, source in layout.sources(shapes).items():
        if source.name is not None:
            shape = source.transform.shape(shapes[path])
            shape = [120 if size is None else size for size in shape]
            tensors[source.name] = rng.normal(size=shape).astype(np.float32)
    return tensors


def smooth_clip(seed, frames=16):
    """Colours that drift: survives compression, differs from clip to clip."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(256, size=(3, 4, 3), dtype=np.uint8)
    picture = coarse.repeat(8, 0).repeat(8, 1)
    return np.stack([np.roll(picture, i, 1) for i in range(frames)])
