"""Converts published checkpoints of the metric networks, and loads converted files.

A converted file is a .safetensors of our parameters whose header has the network, the
name of the source file and its SHA-256, which results then record. A wrong checkpoint
is refused here, so that it cannot show up as a strange score.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from flax.traverse_util import unflatten_dict
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from snapvideo_jax import __version__
from snapvideo_jax.evaluation.nets import NETWORKS, Params, random_params
from snapvideo_jax.evaluation.weights import files
from snapvideo_jax.evaluation.weights.files import Checkpoint
from snapvideo_jax.evaluation.weights.layouts import LAYOUTS, Layout, Source
from snapvideo_jax.io.files import sha256_of, write_atomically

FORMAT = "snapvideo_jax metric network 1"
MAX_NAMED = 5
"""Tensors that a message names at most, for each kind of fault."""
OTHER_I3D = ("rgb_imagenet", "rgb_charades", "flow_", "model_rgb", "model_flow")
"""Parts of file names of I3D networks that are not the network of FVD."""
MEAN_FILE = "mean2.npz"


class Weights(NamedTuple):
    """Parameters of a network and their source.

    params: of its module.
    sha256: of the source file; "random:SEED" for random weights.
    source: name of the source file.
    """

    params: Params
    sha256: str
    source: str

    @property
    def is_random(self) -> bool:
        return self.sha256.startswith("random:")


def convert(
    network: str,
    weights: Path,
    out: Path,
    mean: Path | None = None,
    quick_gelu: bool = False,
) -> dict[str, str]:
    """Converts a checkpoint.

    Args:
      network: one of `NETWORKS`.
      weights: the checkpoint.
      out: the .safetensors to write.
      mean: of C3D, Chainer's file of the mean clip; None is `MEAN_FILE` in the
        checkpoint's folder.
      quick_gelu: of CLIP: asserts that it was trained with QuickGELU, if no config in
        the checkpoint's folder specifies the activation.

    Returns:
      The header.

    Raises:
      ValueError: the checkpoint cannot be read safely, or is of another network; lists
        the differences.
    """
    if out.suffix != ".safetensors":
        raise ValueError(f"--out={out} does not end with .safetensors.")
    found = files.read(weights)
    if network == "i3d":
        _check_i3d(weights, found)
    if network == "c3d" and "fc8/W" in found.tensors:
        found = found._replace(tensors=found.tensors | _mean_clip(weights, mean))
    if network == "clip":
        _check_activation(weights, found, quick_gelu)
    shapes = NETWORKS[network].shapes()
    layout = _layout_of(network, found.tensors, shapes)
    leaves = _converted(network, weights, layout, found.tensors, shapes)
    header = {
        "format": FORMAT,
        "network": network,
        "source": weights.name,
        "source_sha256": sha256_of(weights),
        "layout": f"{layout.name}, {found.kind}",
        "version": __version__,
    }
    write_atomically(out, save(leaves, header))
    return header


def load(path: Path, network: str) -> Weights:
    """The parameters in a converted file.

    Raises:
      ValueError: the file was not written by `convert`, or is of another network.
    """
    try:
        with safe_open(path, "np") as file:
            header = file.metadata() or {}
            leaves = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read ({error}).") from error
    if header.get("format") != FORMAT:
        raise ValueError(
            f"{path} was not made by snapvideo convert; make it: snapvideo convert "
            f"--network {network} --weights {path} --out FILE.safetensors"
        )
    if header["network"] != network:
        raise ValueError(f"{path} is of {header['network']}, wanted {network}.")
    shapes = NETWORKS[network].shapes()
    layout = Layout("ours", Source)
    _check(network, path, layout, leaves, shapes)
    params = unflatten_dict(leaves, sep="/")
    return Weights(params, header["source_sha256"], header["source"])


def random_weights(network: str, seed: int) -> Weights:
    """Random parameters; results mark them as not comparable."""
    return Weights(random_params(network, seed), f"random:{seed}", "random")


def _layout_of(network: str, tensors: Mapping, shapes: Mapping) -> Layout:
    """The layout that shares the most names with a file."""

    def known(layout: Layout) -> int:
        names = {source.name for source in layout.sources(shapes).values()}
        return len(names & tensors.keys())

    return max(LAYOUTS[network], key=known)


def _converted(network, path, layout, tensors, shapes) -> dict[str, np.ndarray]:
    """Our parameters by path, from the tensors of a file."""
    _check(network, path, layout, tensors, shapes)
    leaves = {}
    for where, source in layout.sources(shapes).items():
        if source.name is None:
            leaf = np.full(shapes[where], source.value)
        else:
            leaf = source.transform.apply(tensors[source.name])
        leaves[where] = np.ascontiguousarray(leaf, np.float32)
    broken = [name for name, leaf in leaves.items() if not np.isfinite(leaf).all()]
    if broken:
        raise ValueError(f"{path} holds NaN or infinity in {_listed(broken)}.")
    return leaves


def _check(network, path, layout, tensors, shapes) -> None:
    """Refuses a file that does not match a layout of a network exactly."""
    wanted = {
        source.name: source.transform.shape(shapes[where])
        for where, source in layout.sources(shapes).items()
        if source.name is not None
    }
    held = {name for name in tensors if not layout.is_ignored(name)}
    missing, unknown = sorted(wanted.keys() - held), sorted(held - wanted.keys())
    misshapen = [
        f"{name} of {tensors[name].shape}, wanted {_shape(wanted[name])}"
        for name in sorted(held & wanted.keys())
        if not _fits(tensors[name].shape, wanted[name])
    ]
    if not (missing or unknown or misshapen):
        return
    faults = [
        f"{len(names)} {kind} ({_listed(names)})"
        for kind, names in (
            ("missing", missing),
            ("unexpected", unknown),
            ("of another shape", misshapen),
        )
        if names
    ]
    raise ValueError(
        f"{path} is not a checkpoint of {network} ({NETWORKS[network].used_for}). Of "
        f"the {len(wanted)} tensors of the layout {layout.name}, {'; '.join(faults)}."
        f"{_looks_like(network, tensors)}"
    )


def _looks_like(network: str, tensors: Mapping) -> str:
    """Names the other metric network that a file is of, if any."""
    for other in LAYOUTS.keys() - {network}:
        shapes = NETWORKS[other].shapes()
        layout = _layout_of(other, tensors, shapes)
        names = {source.name for source in layout.sources(shapes).values()}
        if len(names & tensors.keys()) > len(names) / 2:
            return f" It looks like one of {other} ({NETWORKS[other].used_for})."
    return ""


def _fits(shape, wanted) -> bool:
    if len(shape) != len(wanted):
        return False
    return all(w in (None, n) for n, w in zip(shape, wanted, strict=True))


def _shape(wanted) -> str:
    return f"({', '.join('any' if n is None else str(n) for n in wanted)})"


def _listed(names) -> str:
    more = f", and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more


def _check_i3d(path: Path, found: Checkpoint) -> None:
    """Refuses DeepMind's released networks, which give another FVD.

    They share names and shapes with the network that defines FVD. Their file names show
    it, or they lack the batch counters that every later PyTorch state dict has.
    """
    names = found.tensors.keys()
    is_named = any(part in path.name for part in OTHER_I3D)
    is_hassony = found.kind == "torch" and any("batch3d" in name for name in names)
    is_old = (
        found.kind == "torch"
        and any(name.endswith("bn.running_mean") for name in names)
        and not any("num_batches_tracked" in name for name in names)
    )
    if is_named or is_hassony or is_old:
        why = "by its name" if is_named else "by its tensors"
        raise ValueError(
            f"{path} is, {why}, one of the networks released with the paper of I3D "
            "(as rgb_imagenet); expected the one of TensorFlow Hub's "
            "i3d-kinetics-400, which defines FVD: use i3d_pretrained_400.pt "
            "(TATS), i3d_torchscript.pt (StyleGAN-V) or i3d_k400.flax (magvit)."
        )


def _check_activation(path: Path, found: Checkpoint, quick_gelu: bool) -> None:
    """Refuses CLIP without QuickGELU, which its tensors do not show."""
    if found.kind == "torchscript":
        said = "gelu" if found.has_gelu else "quick_gelu"
    else:
        said = _configured(path.parent)
    if said is None and not quick_gelu:
        raise ValueError(
            f"It is unknown whether {path} was trained with QuickGELU or GELU: put its "
            "config.json (Hugging Face) or open_clip_config.json into its folder, or "
            "give --quick_gelu if you are sure."
        )
    if said not in (None, "quick_gelu"):
        raise ValueError(
            f"{path} was trained with {said}, expected quick_gelu; use OpenAI's "
            "weights (openai/clip-vit-base-patch32, ViT-B-32.pt, or open_clip's "
            "ViT-B-32-quickgelu)."
        )


def _configured(folder: Path) -> str | None:
    """The activation in a folder's config; None without a config."""
    theirs, ours = folder / "config.json", folder / "open_clip_config.json"
    try:
        if ours.is_file():
            config = json.loads(ours.read_text("utf-8"))["model_cfg"]
            return "quick_gelu" if config.get("quick_gelu") else "gelu"
        if theirs.is_file():
            config = json.loads(theirs.read_text("utf-8"))
            parts = (config.get(f"{side}_config") or {} for side in ("vision", "text"))
            kinds = {part.get("hidden_act", "quick_gelu") for part in parts}
            return kinds.pop() if len(kinds) == 1 else " and ".join(sorted(kinds))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"The config in {folder} cannot be read ({error}).") from error
    return None


def _mean_clip(path: Path, mean: Path | None) -> dict[str, np.ndarray]:
    """The mean clip that Chainer's C3D subtracts."""
    mean = mean or path.parent / MEAN_FILE
    if not mean.is_file():
        raise ValueError(
            f"{path} needs the mean clip {MEAN_FILE} of the same release; put it into "
            f"the same folder, or give --mean FILE ({mean} is missing)."
        )
    held = files.read(mean).tensors
    clip = held.get("mean")
    if clip is None or clip.ndim != 4 or min(clip.shape[2:]) < 120:
        shapes = {name: each.shape for name, each in held.items()}
        raise ValueError(
            f"{mean} holds {shapes}; expected mean of (3, 16, 120 or more, 120 or "
            "more)."
        )
    return {"mean": clip}
