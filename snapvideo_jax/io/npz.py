"""A reader of .npz files that raises one kind of error for all defects."""

import contextlib
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np


@contextlib.contextmanager
def open_npz(path: Path) -> Iterator[Mapping[str, np.ndarray]]:
    """The arrays of an .npz by name; each is read on access.

    Raises:
      ValueError: the file is missing or damaged, lacks an array, or holds pickled
        objects, which could execute code.
    """
    try:
        # Opened here, since NumPy does not close a damaged file.
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                raise ValueError("it is not a complete .npz")
            file.seek(0)
            with np.load(file, allow_pickle=False) as arrays:
                yield arrays
    except (OSError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(str(error)) from error
