"""Runs an exported program of a bundle with JAX alone; nothing of snapvideo_jax.

    python run.py --program sampler --inputs inputs.safetensors --out frames.npz

An upsampler's sampler takes --small too, the frames that one of a first stage made.

`snapvideo export --format stablehlo` puts a copy of this file beside the programs, as
``stablehlo/run.py``. It needs jax, numpy, and flatbuffers for jax to read programs.
signature.json tells what goes in and what comes out.
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
"""NumPy's types by the names that safetensors files give them."""


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file by name, read where they lie.

    The file is 8 bytes of length, a JSON header, and the arrays (bf16 among them, which
    the library does not give to NumPy).

    Raises:
      ValueError: it is none, or is cut short.
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
        raise ValueError(f"{path} is no whole safetensors file ({error}).") from error
    return found


def read_weights(bundle: Path) -> dict[str, np.ndarray]:
    """The arrays of all weights files of a bundle.

    Raises:
      ValueError: there is none, or one cannot be read.
    """
    paths = sorted(bundle.glob("model*.safetensors"))
    if not paths:
        raise ValueError(f"{bundle} has no model*.safetensors.")
    found: dict[str, np.ndarray] = {}
    for path in paths:
        found |= read_tensors(path)
    return found


def call(bundle: Path, name: str, inputs: dict[str, np.ndarray]):
    """What a program of a bundle makes of inputs, by name.

    Raises:
      ValueError: it has no such program, inputs are missing or of another shape, or the
        program is not for the devices that are here.
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
        each: np.asarray(inputs[each]).astype(told["dtype"])
        for each, told in about["inputs"].items()
    }
    check_shapes(given, about["inputs"])
    program = export.deserialize(bytearray((folder / about["file"]).read_bytes()))
    made = program.call(read_weights(bundle), given)
    return {each: np.asarray(array) for each, array in made.items()}


def check_shapes(given: dict[str, np.ndarray], inputs: dict[str, dict]) -> None:
    """Refuses arrays of other shapes than the signature's; "b" is one number in all.

    Raises:
      ValueError: names the first.
    """
    sizes = {each: told["shape"] for each, told in inputs.items()}
    batch = next((len(a) for n, a in given.items() if "b" in sizes[n] and a.ndim), 1)
    for each, array in given.items():
        wanted = tuple(batch if size == "b" else size for size in sizes[each])
        if array.shape != wanted:
            raise ValueError(f"{each} is of shape {array.shape}; wanted {wanted}.")


def read_frames(path: Path) -> np.ndarray:
    """The frames that a sampler made, of the file that they were written to.

    Raises:
      ValueError: it is none of those.
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
        help="for an upsampler: what a first stage's sampler wrote to --out",
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
