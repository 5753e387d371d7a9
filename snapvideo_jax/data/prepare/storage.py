"""Files on whatever Beam can reach: local disks, Cloud Storage, HDFS."""

import hashlib
import json
import uuid
from collections.abc import Iterable
from typing import Any

from apache_beam.io.filesystem import BeamIOError, CompressionTypes
from apache_beam.io.filesystems import FileSystems

TEMPORARY = "temporary"
"""Folder of the output that holds files which are being written."""
PLAIN = CompressionTypes.UNCOMPRESSED


def join(folder: str, *names: str) -> str:
    """The path of a file in a folder; an absolute name stays what it is."""
    return FileSystems.join(folder, *names)


def make_folder(path: str) -> None:
    """Makes a folder and those above it, unless it exists."""
    if not FileSystems.exists(path):
        FileSystems.mkdirs(path)


def size(path: str) -> int | None:
    """Bytes of a file; None where there is none."""
    try:
        return FileSystems.get_filesystem(path).size(path)
    except BeamIOError:
        return None


def read(path: str) -> bytes:
    """Content of a file."""
    with FileSystems.open(path, compression_type=PLAIN) as file:
        return file.read()


def read_json(path: str) -> Any:
    """Content of a JSON file; None where there is none."""
    return None if size(path) is None else json.loads(read(path))


def store(folder: str, name: str, parts: Iterable[bytes]) -> dict[str, Any]:
    """Writes a file that appears whole or not at all.

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
