"""Which tensor of a published file each of our parameters is: a table for each layout.

A layout maps the path of a parameter to the name of a tensor and its transform. It
depends on the path alone, so missing, unexpected and misshapen tensors can be named.
"""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from snapvideo_jax.evaluation.nets import c3d

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Transform:
    """How a tensor of a file becomes a parameter.

    shape: of the tensor, from the shape of the parameter; None is any size.
    apply: the tensor to the parameter.
    """

    shape: Callable[[Shape], tuple[int | None, ...]]
    apply: Callable[[np.ndarray], np.ndarray]


def _conv(tensor: np.ndarray) -> np.ndarray:
    return np.moveaxis(tensor, (0, 1), (-1, -2))


SAME = Transform(lambda shape: shape, lambda tensor: tensor)
CONV = Transform(lambda shape: (shape[-1], shape[-2], *shape[:-2]), _conv)
"""PyTorch's (out, in, sizes...)."""
DENSE = Transform(lambda shape: shape[::-1], np.transpose)
NORM5D = Transform(lambda shape: (1, 1, 1, 1, *shape), lambda tensor: tensor.ravel())
"""TensorFlow's video norms, with every reduced axis of size 1."""
MEAN = Transform(
    lambda shape: (3, c3d.FRAMES, None, None),
    lambda mean: -mean[:, :, 8:120, 8:120].transpose(1, 2, 3, 0),
)
"""Centre of TGAN's mean clip (channel, frame, height, width); negated to be added."""


def _third(k: int, is_kernel: bool) -> Transform:
    """One of query, key and value, which the file has as one tensor."""
    if is_kernel:
        return Transform(
            lambda shape: (3 * shape[1], shape[0]), lambda x: np.split(x, 3)[k].T
        )
    return Transform(lambda shape: (3 * shape[0],), lambda x: np.split(x, 3)[k])


@dataclasses.dataclass(frozen=True)
class Source:
    """The tensor of a parameter; without a name, the parameter is all ``value``."""

    name: str | None
    transform: Transform = SAME
    value: float = 1.0


@dataclasses.dataclass(frozen=True)
class Layout:
    """The tensor names of one kind of file.

    name: for messages.
    source: path of a parameter to its tensor.
    ignored: tensors with one of these in their names are not used.
    """

    name: str
    source: Callable[[str], Source]
    ignored: tuple[str, ...] = ()

    def sources(self, paths: Mapping[str, Shape]) -> dict[str, Source]:
        return {path: self.source(path) for path in paths}

    def is_ignored(self, name: str) -> bool:
        return any(part in name for part in self.ignored)


# --- I3D ----------------------------------------------------------------------------

_UNITS = {
    "conv1a": "Conv3d_1a_7x7",
    "conv2b": "Conv3d_2b_1x1",
    "conv2c": "Conv3d_2c_3x3",
}
_NORM = {
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
_TF_NORM = {"bias": "beta", "mean": "moving_mean", "var": "moving_variance"}


def _unit_of(path: str) -> tuple[str, str, str]:
    """Block, branch ("" without one) and parameter ("kernel", or of a norm)."""
    block, *rest = path.split("/")
    branch = rest[0] if block.startswith("mixed") else ""
    return block, branch, rest[-1]


def _piergiaj(path: str) -> Source:
    block, branch, leaf = _unit_of(path)
    unit = _UNITS.get(block, block.replace("mixed", "Mixed_"))
    unit = f"{unit}.{branch}" if branch else unit
    return _torch_unit(unit, "bn", leaf, block)


def _hassony(path: str) -> Source:
    block, branch, leaf = _unit_of(path)
    unit = _UNITS.get(block, block.replace("mixed", "mixed_")).lower()
    if block == "logits":
        unit = "conv3d_0c_1x1"
    if branch:
        part = {"a": ".0", "b": ".1"}.get(branch[2:], "")
        unit = f"{unit}.branch_{branch[1]}{part}"
    return _torch_unit(unit, "batch3d", leaf, block)


def _torch_unit(unit: str, norm: str, leaf: str, block: str) -> Source:
    if leaf == "kernel":
        return Source(f"{unit}.conv3d.weight", CONV)
    if block == "logits":
        return Source(f"{unit}.conv3d.bias")
    return Source(f"{unit}.{norm}.{_NORM[leaf]}")


def _tf_unit(path: str, joint: str, typo: bool) -> str:
    """The unit's name in TensorFlow's graph; ``typo`` misnames one unit as there."""
    block, branch, _ = _unit_of(path)
    if block == "logits":
        return f"Logits{joint}Conv3d_0c_1x1"
    if not branch:
        return _UNITS[block]
    kernel = {"a": "0a_1x1", "b": "0b_3x3"}.get(branch[2:], "0a_1x1")
    if branch == "b3b":
        kernel = "0b_1x1"
    if typo and (block, branch) == ("mixed5b", "b2b"):
        kernel = "0a_3x3"
    block = block.replace("mixed", "Mixed_")
    return f"{block}/Branch_{branch[1]}{joint}Conv3d_{kernel}"


def _tf(path: str) -> Source:
    block, _, leaf = _unit_of(path)
    unit = f"RGB/inception_i3d/{_tf_unit(path, '/', typo=True)}"
    if leaf == "kernel" or block == "logits":
        return Source(f"{unit}/conv_3d/{'w' if leaf == 'kernel' else 'b'}")
    if leaf == "scale":
        return Source(None)
    return Source(f"{unit}/batch_norm/{_TF_NORM[leaf]}", NORM5D)


def _magvit_i3d(path: str) -> Source:
    block, _, leaf = _unit_of(path)
    unit = _tf_unit(path, ".", typo=False)
    if leaf == "kernel" or block == "logits":
        return Source(f"{unit}/conv_3d/{leaf}")
    if leaf == "scale":
        return Source(None)
    return Source(f"{unit}/batch_norm/{_TF_NORM[leaf]}")


# --- Inception and C3D --------------------------------------------------------------

_STEM = {
    "conv1a": "Conv2d_1a_3x3",
    "conv2a": "Conv2d_2a_3x3",
    "conv2b": "Conv2d_2b_3x3",
    "conv3b": "Conv2d_3b_1x1",
    "conv4a": "Conv2d_4a_3x3",
}


def _pytorch_fid(path: str) -> Source:
    if path == "fc":
        return Source("fc.weight", DENSE)
    block, branch, leaf = _unit_of(path)
    unit = _STEM.get(block, block.replace("mixed", "Mixed_"))
    unit = f"{unit}.{branch}" if branch else unit
    if leaf == "kernel":
        return Source(f"{unit}.conv.weight", CONV)
    return Source(f"{unit}.bn.{_NORM[leaf]}")


def _chainer_c3d(path: str) -> Source:
    if path == "gain":
        return Source(None, value=256 / 255)
    if path == "offset":
        return Source("mean", MEAN)
    layer, *_, leaf = path.split("/")
    if leaf == "bias":
        return Source(f"{layer}/b")
    return Source(f"{layer}/W", CONV if layer.startswith("conv") else DENSE)


def _magvit_c3d(path: str) -> Source:
    if path == "gain":
        return Source(None)
    if path == "offset":
        return Source("x_offset")
    layer, *_, leaf = path.split("/")
    return Source(f"{layer}/{leaf}")


# --- CLIP ---------------------------------------------------------------------------

_HF = {
    "vision/first": ("vision_model.embeddings.class_embedding", SAME),
    "vision/patches/conv/kernel": (
        "vision_model.embeddings.patch_embedding.weight",
        CONV,
    ),
    "vision/positions": ("vision_model.embeddings.position_embedding.weight", SAME),
    "vision/out/kernel": ("visual_projection.weight", DENSE),
    "language/table": ("text_model.embeddings.token_embedding.weight", SAME),
    "language/positions": ("text_model.embeddings.position_embedding.weight", SAME),
    "language/out/kernel": ("text_projection.weight", DENSE),
}
_HF_NORMS = {
    "vision/norm_before": "vision_model.pre_layrnorm",
    "vision/norm_after": "vision_model.post_layernorm",
    "language/norm_after": "text_model.final_layer_norm",
}
_HF_BLOCK = {
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "out": "self_attn.out_proj",
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "hidden": "mlp.fc1",
    "hidden_out": "mlp.fc2",
}
_OPENAI = {
    "vision/first": ("visual.class_embedding", SAME),
    "vision/patches/conv/kernel": ("visual.conv1.weight", CONV),
    "vision/positions": ("visual.positional_embedding", SAME),
    "vision/out/kernel": ("visual.proj", SAME),
    "language/table": ("token_embedding.weight", SAME),
    "language/positions": ("positional_embedding", SAME),
    "language/out/kernel": ("text_projection", SAME),
}
_OPENAI_NORMS = {
    "vision/norm_before": "visual.ln_pre",
    "vision/norm_after": "visual.ln_post",
    "language/norm_after": "ln_final",
}
_OPENAI_BLOCK = {
    "out": "attn.out_proj",
    "norm1": "ln_1",
    "norm2": "ln_2",
    "hidden": "mlp.c_fc",
    "hidden_out": "mlp.c_proj",
}
_THIRDS = ("query", "key", "value")


def _block_of(path: str) -> tuple[str, str, str, str]:
    """Encoder, number of the block, layer in it, parameter."""
    side, block, layer, leaf = path.split("/")
    return side, block.removeprefix("block"), layer, leaf


def _leaf(name: str, leaf: str) -> Source:
    """A parameter of a linear layer or a norm."""
    if leaf == "bias":
        return Source(f"{name}.bias")
    return Source(f"{name}.weight", DENSE if leaf == "kernel" else SAME)


def _hf(path: str) -> Source:
    if path in _HF:
        return Source(*_HF[path])
    where, _, leaf = path.rpartition("/")
    if where in _HF_NORMS:
        return _leaf(_HF_NORMS[where], leaf)
    side, number, layer, leaf = _block_of(path)
    model = {"vision": "vision_model", "language": "text_model"}[side]
    return _leaf(f"{model}.encoder.layers.{number}.{_HF_BLOCK[layer]}", leaf)


def _openai(path: str) -> Source:
    if path in _OPENAI:
        return Source(*_OPENAI[path])
    where, _, leaf = path.rpartition("/")
    if where in _OPENAI_NORMS:
        return _leaf(_OPENAI_NORMS[where], leaf)
    side, number, layer, leaf = _block_of(path)
    prefix = "visual." if side == "vision" else ""
    block = f"{prefix}transformer.resblocks.{number}"
    if layer in _THIRDS:
        kind = "weight" if leaf == "kernel" else "bias"
        third = _third(_THIRDS.index(layer), leaf == "kernel")
        return Source(f"{block}.attn.in_proj_{kind}", third)
    return _leaf(f"{block}.{_OPENAI_BLOCK[layer]}", leaf)


def _hf_flax(path: str) -> Source:
    """Hugging Face's names in Flax, where kernels are already transposed."""
    source = _hf(path)
    name = source.name or ""
    if not name.endswith((".weight", ".bias")):
        return Source(name.replace(".", "/"))
    parent, leaf = name.rsplit(".", 1)
    if leaf == "weight":
        if source.transform is not SAME:
            leaf = "kernel"
        else:
            leaf = "scale" if "norm" in parent.rpartition(".")[2] else "embedding"
    return Source(f"{parent}.{leaf}".replace(".", "/"))


_COUNTS = ("num_batches_tracked",)
_CLIP_IGNORED = (
    *("position_ids", "logit_scale", "attn_mask"),
    *("input_resolution", "context_length", "vocab_size"),
)
LAYOUTS = {
    "i3d": (
        Layout("TATS", _piergiaj, _COUNTS),
        Layout("hassony2", _hassony, _COUNTS),
        Layout("TensorFlow", _tf),
        Layout("magvit", _magvit_i3d),
    ),
    "inception": (
        Layout("pytorch-fid", _pytorch_fid, (*_COUNTS, "AuxLogits.", "fc.bias")),
    ),
    "c3d": (Layout("chainer", _chainer_c3d), Layout("magvit", _magvit_c3d)),
    "clip": (
        Layout("Hugging Face", _hf, _CLIP_IGNORED),
        Layout("OpenAI", _openai, _CLIP_IGNORED),
        Layout("Hugging Face, Flax", _hf_flax, _CLIP_IGNORED),
    ),
}
"""Network to its layouts."""
