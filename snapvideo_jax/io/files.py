"""Files that are written atomically, and checksums."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any


def remove_temporary_files(folder: str | os.PathLike) -> None:
    """Removes temporary files of `write_atomically` whose process was killed."""
    for temporary in Path(folder).glob(".*.tmp"):
        temporary.unlink(missing_ok=True)


def write_atomically(path: str | os.PathLike, data: bytes) -> None:
    """Writes a temporary file in the same folder, then renames it to ``path``."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | os.PathLike, content: Any) -> None:
    """Writes numbers, strings, lists and dicts as JSON, atomically."""
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
