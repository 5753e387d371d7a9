"""The verb `snapvideo verify`: does a bundle make what the run makes?"""

import dataclasses
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from safetensors.numpy import save_file

from snapvideo_jax import config as configs
from snapvideo_jax.export import bundle, programs, standalone
from snapvideo_jax.export.bundle import Bundle
from snapvideo_jax.export.export import load
from snapvideo_jax.io.resume import differences

BATCH = 2
"""Clips that are compared."""
SECTIONS = ("model", "diffusion", "text")
"""Of the config, that have to be those of the run."""


def verify(
    found: Bundle, workdir: Path, weights: str | None
) -> Iterator[tuple[str, float]]:
    """Largest differences to the run, by what is compared; in brackets no error.

    Weights that were rounded on the way are compared with the run's rounded likewise.

    Args:
      found: the bundle.
      workdir: of the run.
      weights: as for `load`; None for those that the bundle tells.

    Raises:
      ValueError: the bundle is of another run, or a program cannot be called.
    """
    _check_same_model(found, workdir)
    name, step = weights or _weights(found, workdir), found.about["step"]
    _, params, _ = load(workdir, name, step)
    exact = jax.tree.map(np.asarray, flatten_dict(params, sep="/"))
    dtype = bundle.DTYPES[found.about["dtype"]]
    ours, theirs = (
        {name: leaf.astype(dtype) for name, leaf in leaves.items()}
        for leaves in (exact, flatten_dict(found.params(), sep="/"))
    )
    yield "weights", _largest(ours, theirs)
    if "orbax" in found.about["formats"]:
        yield "orbax", _largest(ours, flatten_dict(found.orbax_params(), sep="/"))

    signature = _signature(found)
    told = signature.get("sampler", {})
    sampler = dataclasses.replace(found.experiment.sampler, **told)
    for name, program in programs.programs_of(found.experiment, sampler).items():
        if name == "sampler" and not signature:
            continue  # the denoiser tells it all, in a moment
        call, inputs = jax.jit(program.function), _inputs(found, program)
        wanted = call(ours, inputs)
        if name == "denoiser":
            yield name, _largest(wanted, call(theirs, inputs))
            if dtype != np.float32:
                yield "(rounding alone)", _largest(wanted, call(exact, inputs))
        if signature:
            yield f"stablehlo {name}", _largest(wanted, _alone(found, name, inputs))


def _check_same_model(found: Bundle, workdir: Path) -> None:
    """Refuses a run of another model.

    Raises:
      ValueError: names the first settings that differ.
    """
    own, theirs = (
        {name: json.loads(configs.to_json(config))[name] for name in SECTIONS}
        for config in (configs.of_workdir(workdir), found.config)
    )
    wrong = [
        f"{name} is {value} (in the run {before})"
        for name, value, before in differences(theirs, own)
        if not name.startswith(configs.MAY_CHANGE)
    ]
    if wrong:
        raise ValueError(
            f"{found.folder} is not of the model of --workdir={workdir}: "
            f"{', '.join(wrong[:3])}."
        )


def _weights(found: Bundle, workdir: Path) -> str:
    """The weights that a bundle was made of, as `load` takes them."""
    name = found.about["weights"]
    return name if name in ("raw", "ema") else str(workdir / name)


def _signature(found: Bundle) -> dict[str, Any]:
    """Of a bundle's programs; empty where it has none."""
    path = found.folder / programs.FOLDER / "signature.json"
    return json.loads(path.read_bytes()) if path.is_file() else {}


def _inputs(found: Bundle, program: programs.Program) -> dict[str, Any]:
    """What a program is given: the bundle's own captions, else embeddings by chance."""
    rng = np.random.default_rng(0)
    path = found.folder / bundle.INPUTS
    kept = standalone.read_tensors(path) if path.is_file() else {}
    count = min(BATCH, len(kept["text"])) if kept else BATCH
    inputs = {}
    for name, shape in program.shapes(count).items():
        if name in kept:
            own = kept[name]
            inputs[name] = own[:count] if own.ndim else own
        elif shape.dtype == jnp.bool_:
            inputs[name] = np.full(shape.shape, name != "drop_text")
        elif name == "numbers":
            inputs[name] = np.arange(count, dtype=np.uint32)
        elif name in POSITIVE:
            inputs[name] = np.full(shape.shape, POSITIVE[name], shape.dtype)
        else:
            inputs[name] = rng.normal(size=shape.shape).astype(shape.dtype)
    return inputs


POSITIVE = {
    **{"sigma": 0.7, "frame_interval": 0.1, "resolution": 64, "guidance": 1},
    **{"seed": 0, "low_resolution_noise": 0.1, "small_noise": 0.1},
}
"""Inputs that chance does not suit."""


def _alone(found: Bundle, name: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """What a bundle's program makes, in a process that has JAX and not this package.

    Raises:
      ValueError: it failed; with its last line.
    """
    with tempfile.TemporaryDirectory() as folder:
        given, out = Path(folder) / "inputs.safetensors", Path(folder) / "out.npz"
        save_file(
            {n: np.asarray(value, order="C") for n, value in inputs.items()}, given
        )
        ran = subprocess.run(
            [
                *(sys.executable, "-P", standalone.__file__, "--bundle", found.folder),
                *("--program", name, "--inputs", given, "--out", out),
            ],
            capture_output=True,
            text=True,
        )
        if ran.returncode:
            last = (ran.stderr.strip().splitlines() or ["no word of why"])[-1]
            raise ValueError(f"{found.folder}: {name} cannot be called: {last}")
        with np.load(out) as file:
            return dict(file)


def _largest(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """The largest difference of arrays by name; NaN where one has a NaN."""
    return float(
        np.max(
            [
                np.abs(
                    np.asarray(value, np.float32) - np.asarray(other[name], np.float32)
                ).max()
                for name, value in one.items()
            ]
        )
    )
