"""Runs an exported program of a bundle with JAX alone; nothing of snapvideo_jax.

    python run.py --program sampler --inputs inputs.safetensors --out frames.npz

The sampler of an upsampler also takes --small, the frames of a first stage's sampler.

`snapvideo export --format stablehlo` copies this file to ``stablehlo/run.py`` of the
bundle. It needs jax, numpy, and flatbuffers, with which jax reads programs.
signature.json describes inputs and outputs.
"""

import argparse
import json
import mmap
import struct
import sys
import zipfile
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
from jax import export

DTYPES = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "U8": np.dtype(np.uint8),
    "U32": np.dtype(np.uint32),
    "BOOL": np.dtype(bool),
}
"""NumPy dtypes by their names in safetensors files."""


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file by name, memory-mapped.

    The file is a length in 8 bytes, a JSON header, and the arrays. The library does not
    return bfloat16 as NumPy arrays.

    Raises:
      ValueError: the file is not in this format, or is truncated.
    """
    try:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        (length,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + length])
        header.pop("__metadata__", None)
        found = {}
        for name, entry in header.items():
            first, last = (8 + length + at for at in entry["data_offsets"])
            shape, dtype = entry["shape"], DTYPES[entry["dtype"]]
            if last > len(data) or last - first != np.prod(shape) * dtype.itemsize:
                raise ValueError(f"{name} is cut short")
            array = np.frombuffer(data, dtype, int(np.prod(shape)), first)
            found[name] = array.reshape(shape)
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        raise ValueError(
            f"{path} is not a complete safetensors file ({error})."
        ) from error
    return found


def read_weights(bundle: Path) -> dict[str, np.ndarray]:
    """The arrays of all weights files of a bundle.

    Raises:
      ValueError: there is no file, or one cannot be read.
    """
    paths = sorted(bundle.glob("model*.safetensors"))
    if not paths:
        raise ValueError(f"{bundle} has no model*.safetensors.")
    found: dict[str, np.ndarray] = {}
    for path in paths:
        found |= read_tensors(path)
    return found


def call(bundle: Path, name: str, inputs: dict[str, np.ndarray]):
    """Outputs of a program of a bundle, by name.

    Raises:
      ValueError: there is no such program, inputs are missing or of another shape, or
        the program does not run on the devices of this machine.
    """
    folder = bundle / "stablehlo"
    try:
        signature = json.loads((folder / "signature.json").read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(f"{bundle} holds no exported program ({error}).") from error
    if name not in signature["programs"]:
        known = sorted(signature["programs"])
        raise ValueError(f"{bundle} has no program {name!r}; it has {known}.")
    about = signature["programs"][name]
    here, made_for = jax.default_backend(), signature["platforms"]
    known = {"gpu": "cuda"}.get(here, here)
    if known not in made_for:
        raise ValueError(
            f"{bundle} was exported for {', '.join(made_for)}, and this is {known}; "
            f"export it with --platforms {','.join([*made_for, known])}."
        )
    missing = [each for each in about["inputs"] if each not in inputs]
    if missing:
        hint = "; --small takes a first stage's frames" if "small" in missing else ""
        raise ValueError(f"inputs lack {', '.join(missing)}{hint}.")
    given = {
        each: np.asarray(inputs[each]).astype(entry["dtype"])
        for each, entry in about["inputs"].items()
    }
    check_shapes(given, about["inputs"])
    program = export.deserialize(bytearray((folder / about["file"]).read_bytes()))
    made = program.call(read_weights(bundle), given)
    return {each: np.asarray(array) for each, array in made.items()}


def check_shapes(given: dict[str, np.ndarray], inputs: dict[str, dict]) -> None:
    """Checks arrays against the shapes of the signature; "b" is one size in all.

    Raises:
      ValueError: names the first array of another shape.
    """
    sizes = {each: entry["shape"] for each, entry in inputs.items()}
    batch = next((len(a) for n, a in given.items() if "b" in sizes[n] and a.ndim), 1)
    for each, array in given.items():
        wanted = tuple(batch if size == "b" else size for size in sizes[each])
        if array.shape != wanted:
            raise ValueError(f"{each} is of shape {array.shape}; wanted {wanted}.")


def read_frames(path: Path) -> np.ndarray:
    """The frames in an output file of a sampler.

    Raises:
      ValueError: the file has none.
    """
    try:
        with np.load(path) as file:
            return file["frames"]
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} holds no frames of a sampler ({error}).") from error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--bundle", type=Path, default=Path(__file__).parent.parent, metavar="DIR"
    )
    parser.add_argument("--program", default="sampler", help="(default: sampler)")
    parser.add_argument("--inputs", type=Path, required=True, metavar="SAFETENSORS")
    parser.add_argument(
        "--small",
        type=Path,
        metavar="NPZ",
        help="for an upsampler: the --out file of a first stage's sampler",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="NPZ")
    arguments = parser.parse_args()
    try:
        inputs = read_tensors(arguments.inputs)
        if arguments.small:
            inputs["small"] = read_frames(arguments.small)
        made = call(arguments.bundle, arguments.program, inputs)
    except ValueError as error:
        sys.exit(f"run.py: error: {error}")
    np.savez(arguments.out, **made)


if __name__ == "__main__":
    main()
