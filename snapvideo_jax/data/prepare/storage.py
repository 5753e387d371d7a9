"""Files on any file system of Beam: local disks, Cloud Storage, HDFS."""

import hashlib
import json
import uuid
from collections.abc import Iterable
from typing import Any

from apache_beam.io.filesystem import BeamIOError, CompressionTypes
from apache_beam.io.filesystems import FileSystems

TEMPORARY = "temporary"
"""Folder of the output for unfinished files."""
PLAIN = CompressionTypes.UNCOMPRESSED


def join(folder: str, *names: str) -> str:
    """The path of a file in a folder; an absolute name is returned unchanged."""
    return FileSystems.join(folder, *names)


def make_folder(path: str) -> None:
    """Creates a folder and its parents, unless it exists."""
    if not FileSystems.exists(path):
        FileSystems.mkdirs(path)


def size(path: str) -> int | None:
    """Size of a file in bytes; None if it does not exist."""
    try:
        return FileSystems.get_filesystem(path).size(path)
    except BeamIOError:
        return None


def read(path: str) -> bytes:
    """Content of a file."""
    with FileSystems.open(path, compression_type=PLAIN) as file:
        return file.read()


def read_json(path: str) -> Any:
    """Content of a JSON file; None if it does not exist."""
    return None if size(path) is None else json.loads(read(path))


def store(folder: str, name: str, parts: Iterable[bytes]) -> dict[str, Any]:
    """Writes a file atomically: to a temporary name, then renamed.

    Args:
        folder: the output.
        name: of the file within it.
        parts: its content.

    Returns:
        Its ``sha256`` and its size in ``bytes``.
    """
    unfinished = join(folder, TEMPORARY, uuid.uuid4().hex)
    digest, length = hashlib.sha256(), 0
    with FileSystems.create(unfinished, compression_type=PLAIN) as file:
        for part in parts:
            digest.update(part)
            length += len(part)
            file.write(part)
    FileSystems.rename([unfinished], [join(folder, name)])
    return {"sha256": digest.hexdigest(), "bytes": length}


def store_json(folder: str, name: str, value: Any) -> None:
    """Writes a JSON file, see `store`."""
    text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False)
    store(folder, name, [text.encode() + b"\n"])


def delete(*paths: str) -> None:
    """Deletes those of the files or folders that exist."""
    for path in paths:
        if FileSystems.exists(path):
            FileSystems.delete([path])
