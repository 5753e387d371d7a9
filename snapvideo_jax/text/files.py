"""The files of a T5 encoder in Hugging Face's format, and their checks.

Weights stay on disk; parts of tensors are read on demand. PyTorch files are read by
PyTorch's weights-only loader, which does not execute code of the file.
"""

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  (safetensors finds NumPy's bfloat16 by its name)
import numpy as np
from safetensors import SafetensorError, safe_open

from snapvideo_jax.io.errors import first_line
from snapvideo_jax.models.t5 import T5Sizes

CONFIG, TOKENIZER = "config.json", "spiece.model"
WEIGHTS = (
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
)
"""Files of weights in order of preference; an index lists several files."""
FIELDS = {
    "width": "d_model",
    "layers": "num_layers",
    "heads": "num_heads",
    "head_width": "d_kv",
    "hidden": "d_ff",
    "vocabulary": "vocab_size",
}
"""Names of sizes in config.json, by ours."""
FEED_FORWARD = {"relu": False, "gated-gelu": True}
IGNORED = ("decoder.", "lm_head.", "encoder.embed_tokens.")
"""Prefixes of tensors that the encoder does not use, or that are duplicates."""
PROBED_BYTES = 2**20


def check_folder(folder: Path) -> Path:
    """The file of the weights, or of their index, in a T5 folder.

    Raises:
      ValueError: a file is missing; lists expected and existing files.
    """
    weights = [name for name in WEIGHTS if (folder / name).is_file()]
    missing = [name for name in (CONFIG, TOKENIZER) if not (folder / name).is_file()]
    if not weights:
        missing.append(f"one of {', '.join(WEIGHTS)}")
    if missing:
        raise ValueError(
            f"{folder} is not a T5 encoder: it needs {CONFIG}, {TOKENIZER} and one of "
            f"{', '.join(WEIGHTS)}; missing: {'; '.join(missing)}; found: "
            f"{_listing(folder)}."
        )
    return folder / weights[0]


def read_sizes(folder: Path) -> T5Sizes:
    """The sizes in config.json.

    Raises:
      ValueError: files are missing, or the model is not T5.
    """
    check_folder(folder)
    path = folder / CONFIG
    config = _read_json(path)
    if config.get("model_type") != "t5":
        raise ValueError(
            f"{path} has model_type={config.get('model_type')!r}, wanted 't5'."
        )
    kind = config.get("feed_forward_proj", "relu")
    if kind not in FEED_FORWARD:
        raise ValueError(
            f"{path} has feed_forward_proj={kind!r}; use a model with one of "
            f"{sorted(FEED_FORWARD)}."
        )
    for name in FIELDS.values():
        if not isinstance(config.get(name), int) or config[name] < 1:
            raise ValueError(
                f"{path} has {name}={config.get(name)!r}, wanted a whole number."
            )
    return T5Sizes(
        **{ours: config[theirs] for ours, theirs in FIELDS.items()},
        gated=FEED_FORWARD[kind],
        buckets=config.get("relative_attention_num_buckets", 32),
        max_distance=config.get("relative_attention_max_distance", 128),
        epsilon=config.get("layer_norm_epsilon", 1e-6),
    )


def fingerprint(folder: Path) -> str:
    """A hash that identifies an encoder: of its small files and parts of its weights.

    Of weights it covers file sizes and the first and last MiB, since reading all would
    take minutes.
    """
    digest = hashlib.sha256()
    for name in (CONFIG, TOKENIZER):
        digest.update((folder / name).read_bytes())
    for path in weight_files(check_folder(folder)):
        digest.update(f"{path.name} {path.stat().st_size}".encode())
        with path.open("rb") as file:
            digest.update(file.read(PROBED_BYTES))
            file.seek(max(0, path.stat().st_size - PROBED_BYTES))
            digest.update(file.read(PROBED_BYTES))
    return digest.hexdigest()[:16]


class Weights:
    """The tensors of a folder by name, from one or several files.

    Raises:
      ValueError: files are missing or damaged.
    """

    def __init__(self, folder: Path):
        self._path = check_folder(folder)
        files = [_open(path) for path in weight_files(self._path)]
        self._tensors = {name: file for file in files for name in file.shapes}

    def check(self, wanted: dict[str, tuple[int, ...]]) -> None:
        """Raises ValueError if tensors are missing, unknown, or of another shape."""
        held = {name for name in self._tensors if not name.startswith(IGNORED)}
        faults = [f"lacks {name}" for name in sorted(wanted.keys() - held)]
        faults += [f"has an unknown {name}" for name in sorted(held - wanted.keys())]
        for name in sorted(held & wanted.keys()):
            shape = tuple(self._tensors[name].shapes[name])
            if shape != wanted[name]:
                faults.append(f"has {name} of {shape}, wanted {wanted[name]}")
        if faults:
            more = f", and {len(faults) - 5} more" if len(faults) > 5 else ""
            raise ValueError(
                f"{self._path} does not match the {CONFIG} of its folder: it "
                f"{', '.join(faults[:5])}{more}."
            )

    def read(self, name: str, part: tuple[slice, ...]) -> np.ndarray:
        return self._tensors[name].read(name, part)


def weight_files(path: Path) -> list[Path]:
    """The files of the tensors: ``path``, or those that it lists if it is an index.

    Raises:
      ValueError: the index cannot be read, or lists files that are missing.
    """
    if not path.name.endswith(".index.json"):
        return [path]
    names = _read_json(path).get("weight_map")
    if not isinstance(names, dict):
        raise ValueError(f"{path} has no weight_map; download it again.")
    expected = sorted(set(map(str, names.values())))
    missing = [name for name in expected if not (path.parent / name).is_file()]
    if missing:
        raise ValueError(
            f"{path} lists {', '.join(expected)}; missing: {', '.join(missing)}; "
            f"found: {_listing(path.parent)}."
        )
    return [path.parent / name for name in expected]


def _open(path: Path) -> "_Safetensors | _Torch":
    return (_Torch if path.suffix == ".bin" else _Safetensors)(path)


class _Safetensors:
    def __init__(self, path: Path):
        try:
            self._file = safe_open(path, "np")
        except SafetensorError as error:
            raise ValueError(f"{path} cannot be read ({error}).") from error
        self.shapes = {
            name: self._file.get_slice(name).get_shape() for name in self._file.keys()
        }

    def read(self, name: str, part: tuple[slice, ...]) -> np.ndarray:
        return self._file.get_slice(name)[part]


class _Torch:
    def __init__(self, path: Path):
        try:
            import torch
        except ImportError:
            raise ValueError(
                f"{path} is a PyTorch file; pip install 'snapvideo_jax[convert]' to "
                "read it, or use a model.safetensors."
            ) from None
        # Files from before PyTorch 1.6 are not archives and are read as a whole.
        lazy = zipfile.is_zipfile(path)
        try:
            self._tensors = torch.load(
                path, map_location="cpu", weights_only=True, mmap=lazy
            )
        except Exception as error:  # of many types, all caused by the file
            reason = first_line(error)
            raise ValueError(f"{path} cannot be read safely ({reason}).") from error
        self.shapes = {name: tuple(x.shape) for name, x in self._tensors.items()}

    def read(self, name: str, part: tuple[slice, ...]) -> np.ndarray:
        return self._tensors[name][part].float().numpy()


def _listing(folder: Path) -> str:
    held = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return ", ".join(held) or "nothing"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); download it again.") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} is not a JSON object; download it again.")
    return found
