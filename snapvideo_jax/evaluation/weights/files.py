"""Reads published weight files without executing any code in them.

safetensors, .npz (NumPy, Chainer) and Flax's msgpack hold numbers only. PyTorch state
dicts are loaded with ``weights_only=True``. A TorchScript archive is read here without
PyTorch: its pickle may refer to tensors and empty classes, and nothing else. Other
pickles are refused.
"""

import pickle
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import msgpack
import numpy as np
from flax import serialization
from flax.traverse_util import flatten_dict
from safetensors import SafetensorError, safe_open

from snapvideo_jax.io.errors import first_line
from snapvideo_jax.io.npz import open_npz

PICKLES = (".pkl", ".pickle")
FLAX = (".msgpack", ".flax")


class Checkpoint(NamedTuple):
    """Tensors by name, and their file format.

    kind: safetensors, npz, flax, torch or torchscript.
    has_gelu: of TorchScript: whether its code calls GELU.
    """

    tensors: dict[str, np.ndarray]
    kind: str
    has_gelu: bool = False


def read(path: Path) -> Checkpoint:
    """The tensors of a file.

    Raises:
      ValueError: the file is missing, damaged, or cannot be read safely.
    """
    if not path.is_file():
        raise ValueError(f"--weights={path}: there is no such file.")
    if path.suffix in PICKLES:
        raise ValueError(
            f"{path} is a pickle, which may run any code when it is read; take the "
            "network's .pth, .safetensors or .npz (docs/evaluation.md lists them)."
        )
    if path.suffix == ".safetensors":
        return Checkpoint(_safetensors(path), "safetensors")
    if path.suffix == ".npz":
        return Checkpoint(_npz(path), "npz")
    if path.suffix in FLAX:
        return Checkpoint(_flax(path), "flax")
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if any(name.endswith("/constants.pkl") for name in names):
                return _torchscript(path, archive)
    return Checkpoint(_torch(path), "torch")


def _safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        with safe_open(path, "np") as file:
            return {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise ValueError(f"{path} cannot be read ({error}).") from error


def _npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with open_npz(path) as file:
            return dict(file)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read safely ({error}).") from error


def _flax(path: Path) -> dict[str, np.ndarray]:
    try:
        tree = serialization.msgpack_restore(path.read_bytes())
        leaves = flatten_dict(tree, sep="/")
    except (ValueError, AssertionError, TypeError, msgpack.UnpackException) as error:
        raise ValueError(f"{path} is not Flax's msgpack ({error}).") from error
    return {
        name.removeprefix("params/"): np.asarray(leaf) for name, leaf in leaves.items()
    }


def _torch(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError:
        raise ValueError(
            f"{path} is PyTorch's; pip install 'snapvideo_jax[convert]' to read it."
        ) from None
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the loader raises many types for a damaged file
        reason = first_line(error)
        raise ValueError(f"{path} cannot be read safely ({reason}).") from error
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    tensors = found.items() if isinstance(found, dict) else ()
    tensors = {name: x for name, x in tensors if isinstance(x, torch.Tensor)}
    if not tensors:
        raise ValueError(f"{path} has no state dict; save model.state_dict().")
    return {
        name: (x.float() if x.is_floating_point() else x).numpy()
        for name, x in tensors.items()
    }


# --- TorchScript --------------------------------------------------------------------

_STORAGES = {
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "DoubleStorage": np.dtype("<f8"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}


def _torchscript(path: Path, archive: zipfile.ZipFile) -> Checkpoint:
    """The tensors of a module in an archive; its code is searched, never run."""
    try:
        (pickled,) = [x for x in archive.namelist() if x.endswith("/data.pkl")]
        with archive.open(pickled) as file:
            root = _Unpickler(file, archive, pickled.removesuffix("data.pkl")).load()
    except (
        *(pickle.UnpicklingError, zipfile.BadZipFile, EOFError, OSError),
        *(KeyError, ValueError, TypeError, AttributeError, IndexError),
    ) as error:
        raise ValueError(f"{path} cannot be read safely ({error}).") from error
    code = [name for name in archive.namelist() if name.endswith(".py")]
    has_gelu = any(b"torch.gelu(" in archive.read(name) for name in code)
    tensors = flatten_dict(_members(root), sep=".")
    return Checkpoint(tensors, "torchscript", has_gelu)


class _Module:
    """Replaces any class of an archive; holds its members and does nothing."""

    def __init__(self, *_):
        self.members: Any = {}

    def __setstate__(self, state: Any) -> None:
        self.members = state


def _members(module: Any) -> dict[str, Any]:
    members = getattr(module, "members", {})
    if not isinstance(members, dict):
        return {}
    found = {}
    for name, value in members.items():
        if isinstance(value, np.ndarray):
            found[str(name)] = value
        elif isinstance(value, _Module):
            found[str(name)] = _members(value)
    return found


class _Unpickler(pickle.Unpickler):
    """Restores tensors and empty classes; refuses everything else."""

    def __init__(self, file, archive: zipfile.ZipFile, folder: str):
        super().__init__(file)
        self._archive, self._folder = archive, folder

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):
            return _Module
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuilt
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if module == "torch.jit._pickle":
            return _first
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> np.ndarray:
        kind, dtype, key, *_ = pid
        if kind != "storage" or not isinstance(dtype, np.dtype):
            raise pickle.UnpicklingError(f"it asks for {kind!r}")
        data = self._archive.read(f"{self._folder}data/{key}")
        return np.frombuffer(data, dtype)


def _first(value: Any = None, *_) -> Any:
    return value


def _rebuilt(storage: np.ndarray, offset: int, size, stride, *_) -> np.ndarray:
    """A tensor, if it lies within its storage."""
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    least = min(offset, *size, *stride, 0)
    if least < 0 or (0 not in size and last >= len(storage)):
        raise ValueError("a tensor lies outside of its storage")
    steps = [step * storage.itemsize for step in stride]
    view = np.lib.stride_tricks.as_strided(storage[offset:], size, steps)
    return view.copy()
