"""`verify`: compares the outputs of a bundle with those of its run."""

import dataclasses
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
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
from snapvideo_jax.io.saved_settings import differences

BATCH = 2
"""Clips that are compared."""
SECTIONS = ("model", "diffusion", "text")
"""Sections of the config that must equal those of the run."""
POSITIVE = {
    **{"sigma": 0.7, "frame_interval": 0.1, "resolution": 64, "guidance": 1},
    **{"seed": 0, "low_resolution_noise": 0.1, "small_noise": 0.1},
}
"""Values of inputs for which Gaussian samples would be invalid."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class VerifyOptions:
    """Options of `verify`.

    Attributes:
      bundle: folder of `export`.
      workdir: of the run.
      weights: of the run, as for `export.load` (default: those that the bundle names).
    """

    bundle: str | Path
    workdir: str | Path
    weights: str | None = None


def verify(options: VerifyOptions) -> dict[str, float]:
    """The largest absolute difference to the run, by what is compared.

    Rounded weights are compared with the run's, rounded likewise; the effect of the
    rounding is listed in parentheses and is not an error. Programs run in a process
    that has JAX and not this package.

    Raises:
      ValueError: the bundle is damaged or of another run, or a program cannot be
        called.
    """
    found, workdir = bundle.read(Path(options.bundle)), Path(options.workdir)
    _check_same_model(found, workdir)
    weights, step = options.weights or _weights(found, workdir), found.about["step"]
    _, params, _ = load(workdir, weights, step)
    exact = jax.tree.map(np.asarray, flatten_dict(params, sep="/"))
    dtype = bundle.DTYPES[found.about["dtype"]]
    ours, theirs = (
        {name: leaf.astype(dtype) for name, leaf in leaves.items()}
        for leaves in (exact, flatten_dict(found.params(), sep="/"))
    )
    differences = {"weights": _largest(ours, theirs)}
    if "orbax" in found.about["formats"]:
        orbax = flatten_dict(found.orbax_params(), sep="/")
        differences["orbax"] = _largest(ours, orbax)

    signature = _signature(found)
    sampler = dataclasses.replace(
        found.experiment.sampler, **signature.get("sampler", {})
    )
    for name, program in programs.programs_of(found.experiment, sampler).items():
        if name == "sampler" and not signature:
            continue  # the denoiser shows any difference, and is much faster
        call, inputs = jax.jit(program.function), _inputs(found, program)
        wanted = call(ours, inputs)
        if name == "denoiser":
            differences[name] = _largest(wanted, call(theirs, inputs))
            if dtype != np.float32:
                rounding = _largest(wanted, call(exact, inputs))
                differences["(rounding alone)"] = rounding
        if signature:
            standalone_outputs = _run_standalone(found, name, inputs)
            differences[f"stablehlo {name}"] = _largest(wanted, standalone_outputs)
    return differences


def _check_same_model(found: Bundle, workdir: Path) -> None:
    """Asserts that bundle and run have the same model.

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
            f"{found.folder} has another model than --workdir={workdir}: "
            f"{', '.join(wrong[:3])}."
        )


def _weights(found: Bundle, workdir: Path) -> str:
    """The weights that a bundle was exported from, as `load` takes them."""
    name = found.about["weights"]
    return name if name in ("raw", "ema") else str(workdir / name)


def _signature(found: Bundle) -> dict[str, Any]:
    """The signature of a bundle's programs; empty where it has none."""
    path = found.folder / programs.FOLDER / "signature.json"
    return json.loads(path.read_bytes()) if path.is_file() else {}


def _inputs(found: Bundle, program: programs.Program) -> dict[str, Any]:
    """Inputs of a program: those of the bundle's captions, or random embeddings."""
    rng = np.random.default_rng(0)
    path = found.folder / bundle.INPUTS
    stored = standalone.read_tensors(path) if path.is_file() else {}
    count = min(BATCH, len(stored["text"])) if stored else BATCH
    inputs = {}
    for name, shape in program.shapes(count).items():
        if name in stored:
            value = stored[name]
            inputs[name] = value[:count] if value.ndim else value
        elif shape.dtype == jnp.bool_:
            inputs[name] = np.full(shape.shape, name != "drop_text")
        elif name == "numbers":
            inputs[name] = np.arange(count, dtype=np.uint32)
        elif name in POSITIVE:
            inputs[name] = np.full(shape.shape, POSITIVE[name], shape.dtype)
        else:
            inputs[name] = rng.normal(size=shape.shape).astype(shape.dtype)
    return inputs


def _run_standalone(
    found: Bundle, name: str, inputs: Mapping[str, Any]
) -> dict[str, Any]:
    """Outputs of a bundle's program, run by `standalone` in a new process.

    Raises:
      ValueError: it failed; has the last line of its errors.
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
            last = (ran.stderr.strip().splitlines() or ["no message"])[-1]
            raise ValueError(f"{found.folder}: {name} cannot be called: {last}")
        with np.load(out) as file:
            return dict(file)


def _largest(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """The largest absolute difference of arrays by name; NaN where one has a NaN."""
    pairs = [
        (np.asarray(value, np.float32), np.asarray(other[name], np.float32))
        for name, value in one.items()
    ]
    return float(np.max([np.abs(ours - theirs).max() for ours, theirs in pairs]))
