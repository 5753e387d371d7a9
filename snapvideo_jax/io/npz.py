"""Files of NumPy arrays by name, read so that a damaged one is said to be damaged."""

import contextlib
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np


@contextlib.contextmanager
def open_npz(path: Path) -> Iterator[Mapping[str, np.ndarray]]:
    """The arrays of an .npz, each of which is read when it is asked for.

    Raises:
      ValueError: the file is missing or damaged, lacks an array that is asked for, or
        holds objects, which could run code.
    """
    try:
        # Opened here, since NumPy would not close a damaged one.
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                raise ValueError("it is no whole .npz")
            file.seek(0)
            with np.load(file, allow_pickle=False) as arrays:
                yield arrays
    except (OSError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(str(error)) from error
