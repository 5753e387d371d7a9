"""Files that appear whole or not at all, should the process be killed meanwhile."""

import hashlib
import json
import os
import pathlib
from pathlib import Path
from typing import Any


def remove_temporary_files(folder: str | os.PathLike) -> None:
    """Removes what `write_atomically` left in a folder when its process was killed."""
    for passing in pathlib.Path(folder).glob(".*.tmp"):
        passing.unlink(missing_ok=True)


def write_atomically(path: str | os.PathLike, data: bytes) -> None:
    """Writes ``data`` under a passing name in the same folder, then renames it."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    passing = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        passing.write_bytes(data)
        os.replace(passing, path)
    finally:
        passing.unlink(missing_ok=True)


def write_json(path: str | os.PathLike, content: Any) -> None:
    """Writes plain numbers, strings, lists and dicts, as `write_atomically` does."""
    write_atomically(path, json.dumps(content, indent=2).encode())


def check_empty(folder: Path, option: str) -> None:
    """Refuses a path that is neither new nor an empty folder.

    Raises:
      ValueError: names ``option``, which gave the path.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{option}={folder} is not an empty folder; use another one.")


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
