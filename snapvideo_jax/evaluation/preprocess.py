"""Preprocesses the frames of a clip for a network, in the published variants.

The variants of a metric give different values for the same clips, so each has a name
and every result records it.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float32, UInt8

from snapvideo_jax.evaluation import resize
from snapvideo_jax.evaluation.nets import c3d, clip, i3d, inception

Frames = UInt8[np.ndarray, "t h w 3"]
Ready = Float32[np.ndarray, "t y x 3"]

I3D_SIZE = (224, 224)
INCEPTION_SIZE = (inception.SIZE, inception.SIZE)
C3D_SIZE = (c3d.SIZE, c3d.SIZE)
CLIP_SIDE = clip.CLIPSizes.size

CLIP_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
CLIP_STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)


@dataclasses.dataclass(frozen=True)
class Variant:
    """A preprocessing.

    apply: frames to the network's input, frame by frame.
    settings: fields of the network's module that this variant needs.
    """

    apply: Callable[[Frames], Ready]
    settings: dict[str, float] = dataclasses.field(default_factory=dict)


def _to_unit_range(levels: Ready) -> Ready:
    """0..255 to [-1, 1]."""
    return levels * np.float32(2 / 255) - np.float32(1)


def _around_128(levels: Ready) -> Ready:
    """As in TensorFlow's graph: (levels - 128) / 128, so white is 127 / 128."""
    return (levels - np.float32(128)) / np.float32(128)


def _fvd_stylegan_v(frames: Frames) -> Ready:
    """Resized without cropping, half-pixel centres; norm epsilon 1e-3."""
    return _to_unit_range(resize.bilinear(frames, I3D_SIZE, resize.half_pixel))


def _fvd_tf(frames: Frames) -> Ready:
    """Resized without cropping by TensorFlow 1's bilinear; norm epsilon 1e-3."""
    return _to_unit_range(resize.bilinear(frames, I3D_SIZE, resize.legacy))


def _fvd_videogpt(frames: Frames) -> Ready:
    """Centre crop, half-pixel centres; norm epsilon 1e-5."""
    size = resize.covering_size(frames.shape[1:3], I3D_SIZE[0], round_up=True)
    covering = resize.bilinear(frames, size, resize.half_pixel)
    return _to_unit_range(resize.center_crop(covering, I3D_SIZE))


def _fid_tf(frames: Frames) -> Ready:
    """Resized without cropping by TensorFlow 1's bilinear."""
    return _around_128(resize.bilinear(frames, INCEPTION_SIZE, resize.legacy))


def _fid_pytorch_fid(frames: Frames) -> Ready:
    """Resized without cropping, half-pixel centres; white is 1."""
    return _to_unit_range(resize.bilinear(frames, INCEPTION_SIZE, resize.half_pixel))


def _fid_clean(frames: Frames) -> Ready:
    """Resized without cropping by Pillow's bicubic, not rounded."""
    return _around_128(resize.bicubic_exact(frames, INCEPTION_SIZE))


def _is_c3d(frames: Frames) -> Ready:
    """Resized without cropping, aligned corners; C3D itself subtracts the mean."""
    return resize.bilinear(frames, C3D_SIZE, resize.aligned)


def _clip_openai(frames: Frames) -> Ready:
    """Centre crop, by Pillow's bicubic."""
    size = resize.covering_size(frames.shape[1:3], CLIP_SIDE, round_up=False)
    covering = resize.bicubic(frames, size)
    return _clip_norm(resize.center_crop(covering, (CLIP_SIDE, CLIP_SIDE), round))


def _clip_squash(frames: Frames) -> Ready:
    """Resized without cropping by TensorFlow 1's bilinear, as in torch-fidelity."""
    size = (CLIP_SIDE, CLIP_SIDE)
    return _clip_norm(resize.bilinear(frames, size, resize.legacy))


def _clip_norm(levels) -> Ready:
    values = np.asarray(levels, np.float32) / np.float32(255)
    return (values - CLIP_MEAN) / CLIP_STD


VARIANTS: dict[str, dict[str, Variant]] = {
    "i3d": {
        "stylegan-v": Variant(_fvd_stylegan_v, {"epsilon": 1e-3}),
        "tf": Variant(_fvd_tf, {"epsilon": 1e-3}),
        "videogpt": Variant(_fvd_videogpt, {"epsilon": 1e-5}),
    },
    "inception": {
        "tf": Variant(_fid_tf),
        "pytorch-fid": Variant(_fid_pytorch_fid),
        "clean": Variant(_fid_clean),
    },
    "c3d": {"tgan": Variant(_is_c3d)},
    "clip": {"openai": Variant(_clip_openai), "squash": Variant(_clip_squash)},
}
"""Network to its variants; the first is the default."""

MIN_FRAMES = {"i3d": i3d.MIN_FRAMES, "c3d": c3d.FRAMES}
"""Fewest frames that a network takes; the others take single frames."""


def default_variant(network: str) -> str:
    """The first variant of a network."""
    return next(iter(VARIANTS[network]))
