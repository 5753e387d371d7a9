"""A bundle: a folder with weights as safetensors, a config, and a list of its files.

``config.json`` is written last: a folder without one is not a bundle. It has the
version of the format, the experiment's config, the origin and shapes of the weights,
and the size and SHA-256 of every file, which `read` compares before anything is used.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import ml_dtypes
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict
from orbax.checkpoint import v1 as ocp
from safetensors.numpy import save_file

from snapvideo_jax import __version__
from snapvideo_jax import config as configs
from snapvideo_jax.export.standalone import read_weights
from snapvideo_jax.io.files import sha256_of, write_json
from snapvideo_jax.state import abstract_state

FORMAT, VERSION = "snapvideo_jax bundle", 1
"""Format and version in config.json; `read` accepts this version only."""
CONFIG, INPUTS, ORBAX = "config.json", "inputs.safetensors", "orbax"
INDEX, CASCADE = "cascade.json", "snapvideo_jax cascade"
"""File in a folder with the bundles of two stages, and its format."""
DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


@dataclasses.dataclass(frozen=True)
class Bundle:
    """A bundle whose files passed all checks.

    Attributes:
      folder: of the bundle.
      about: the content of its config.json.
      config: of the experiment.
      experiment: built from it.
    """

    folder: Path
    about: Mapping[str, Any]
    config: ConfigDict
    experiment: "configs.Experiment"

    def params(self) -> Any:
        """The parameters as float32 NumPy arrays, in the tree of the network.

        Raises:
          ValueError: a file cannot be read, or its arrays are not those of config.json.
        """
        if not any(name.startswith("model") for name in self.about["files"]):
            return self.orbax_params()
        leaves = read_weights(self.folder)
        listed = {name: tuple(shape) for name, shape in self.about["tensors"].items()}
        found = {name: leaf.shape for name, leaf in leaves.items()}
        if differing := different(listed, found):
            raise ValueError(
                f"{self.folder}: the weights are not those of {CONFIG}: {differing}."
            )
        leaves = {name: leaf.astype(np.float32) for name, leaf in leaves.items()}
        return unflatten_dict(leaves, sep="/")

    def orbax_params(self) -> Any:
        """As `params`, from the Orbax checkpoint in the bundle."""
        path = (self.folder / ORBAX).absolute()
        loaded = ocp.load_checkpointables(path)["params"]
        return jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), loaded)


def different(wanted: Mapping[str, tuple], found: Mapping[str, tuple]) -> str:
    """A message about the first shape that differs; "" where all are equal."""
    for name in sorted(wanted.keys() | found.keys()):
        one, other = wanted.get(name, "missing"), found.get(name, "missing")
        if one != other:
            return f"{name} is {other}, wanted {one}"
    return ""


def shapes_of(experiment: "configs.Experiment") -> dict[str, tuple[int, ...]]:
    """The parameter shapes of an experiment, by name."""
    params = nn.unbox(abstract_state(experiment)).params
    return {name: leaf.shape for name, leaf in flatten_dict(params, sep="/").items()}


def write_weights(out: Path, leaves: Mapping[str, np.ndarray], limit: int) -> None:
    """Writes model.safetensors, or several files of up to ``limit`` bytes and an index.

    File names and index follow Hugging Face, so that its tools read them.
    """
    out.mkdir(parents=True, exist_ok=True)
    parts = list(_parts(leaves, limit))
    where, about = {}, {"format": FORMAT}
    for number, names in enumerate(parts, start=1):
        file = "model.safetensors"
        if len(parts) > 1:
            file = f"model-{number:05d}-of-{len(parts):05d}.safetensors"
        part = {name: np.asarray(leaves[name], order="C") for name in names}
        write_tensors(out / file, part, about)
        where |= dict.fromkeys(names, file)
    if len(parts) > 1:
        size = sum(leaf.nbytes for leaf in leaves.values())
        index = {"metadata": {"total_size": size}, "weight_map": where}
        path = out / "model.safetensors.index.json"
        write_json(path, index)


def write_tensors(
    path: Path, arrays: Mapping[str, np.ndarray], about: dict[str, str] | None = None
) -> None:
    """Writes a safetensors file with mode 644; the library's default is 600."""
    save_file(dict(arrays), path, about)
    path.chmod(0o644)


def write_orbax(out: Path, params: Any) -> None:
    """Writes the parameters alone as an Orbax checkpoint."""
    ocp.save_checkpointables((out / ORBAX).absolute(), {"params": params})


def write_config(
    out: Path, config: ConfigDict, leaves: Mapping[str, np.ndarray], **about: Any
) -> dict[str, Any]:
    """Writes config.json with the checksums of all other files; the last step."""
    files = sorted(path for path in out.rglob("*") if path.is_file())
    content = {
        "format": FORMAT,
        "format_version": VERSION,
        "library_version": __version__,
        **about,
        "config": json.loads(configs.to_json(config)),
        "tensors": {name: list(leaf.shape) for name, leaf in sorted(leaves.items())},
        "files": {
            path.relative_to(out).as_posix(): {
                "bytes": path.stat().st_size,
                "sha256": sha256_of(path),
            }
            for path in files
        },
    }
    write_json(out / CONFIG, content)
    return content


def write_index(out: Path, stages: list[str]) -> None:
    """Lists the folders of the stages' bundles, the first stage first."""
    index = {"format": CASCADE, "format_version": VERSION, "stages": stages}
    write_json(out / INDEX, index)


def read(folder: Path, overrides: Sequence[str] = ()) -> Bundle:  # noqa: B006
    """Reads a bundle, and checks its files against config.json.

    Args:
      folder: of the bundle.
      overrides: of the experiment's config, each ``--config.a.b=value``.

    Raises:
      ValueError: the folder is not a bundle, has another version, is incomplete or
        damaged, or its config does not match its weights.
    """
    path = folder / CONFIG
    about = _read_config(path)
    if about.get("format") != FORMAT:
        raise ValueError(f"{path} is not of a bundle; snapvideo export writes one.")
    if about.get("format_version") != VERSION:
        raise ValueError(
            f"{folder} is a bundle of version {about.get('format_version')}, made by "
            f"snapvideo_jax {about.get('library_version')}; this one ({__version__}) "
            f"reads version {VERSION}. Use a library that reads it."
        )
    try:
        config = configs.overridden(ConfigDict(about["config"]), overrides)
        for name, file in about["files"].items():
            _check_file(folder, name, file["bytes"], file["sha256"])
        listed = {name: tuple(shape) for name, shape in about["tensors"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error!r} in it).") from error
    try:
        experiment = configs.build(config)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: its config cannot be used: {error}") from error
    if differing := different(shapes_of(experiment), listed):
        raise ValueError(
            f"{path}: its config is of another model than its weights: {differing}."
        )
    return Bundle(folder, about, config, experiment)


def _read_config(path: Path) -> dict[str, Any]:
    if (path.parent / INDEX).is_file():
        raise ValueError(
            f"{path.parent} has the bundles of two stages; use one of the folders "
            f"that its {INDEX} lists."
        )
    if not path.is_file():
        raise ValueError(f"{path.parent} is not a bundle: it has no {path.name}.")
    try:
        about = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}).") from error
    if not isinstance(about, dict):
        raise ValueError(f"{path} is not of a bundle; snapvideo export writes one.")
    return about


def _check_file(folder: Path, name: str, size: int, sha256: str) -> None:
    """Checks a file against its entry in config.json.

    Raises:
      ValueError: the file is outside of the bundle, missing, truncated, or changed.
    """
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{folder / CONFIG} lists {name!r}, outside of the bundle.")
    if not path.is_file():
        raise ValueError(f"{folder} is not whole: {name} is missing; copy it again.")
    if (found := path.stat().st_size) != size:
        raise ValueError(
            f"{folder} is not whole: {name} has {found} bytes in place of {size}; copy "
            "it again."
        )
    if sha256_of(path) != sha256:
        raise ValueError(
            f"{folder} is damaged: the SHA-256 of {name} is not that of {CONFIG}; copy "
            "it again."
        )


def _parts(leaves: Mapping[str, np.ndarray], limit: int) -> Iterator[list[str]]:
    """Names of the arrays of each file; a single array may exceed ``limit`` bytes."""
    part: list[str] = []
    size = 0
    for name in sorted(leaves):
        if part and size + leaves[name].nbytes > limit:
            yield part
            part, size = [], 0
        part.append(name)
        size += leaves[name].nbytes
    yield part
