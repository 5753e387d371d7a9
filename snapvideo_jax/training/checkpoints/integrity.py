"""Integrity of checkpoints: manifests with sizes and checksums of their files.

Orbax commits a checkpoint by one rename and restores it without a check of its files.
So every process writes a manifest of a part of the files once the checkpoint is
committed, and before a restore all files are compared with the manifests: this finds a
file that is missing, truncated or changed in a single bit. Processes share the reading,
and what they read is then in the page cache for Orbax.
"""

import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import tensorstore

from snapvideo_jax.io.files import write_atomically

PREFIX = "manifest_"
CHUNK = 1 << 22
THREADS = min(8, os.cpu_count() or 1)
COMMITTED = "_CHECKPOINT_METADATA"
"""File that Orbax writes last."""

Listed = Mapping[str, tuple[int, int]]
"""Size in bytes and CRC-32 of files, by their path in the checkpoint."""


def write_manifest(folder: Path, index: int = 0, count: int = 1) -> None:
    """Writes the manifest of process ``index`` of ``count``, of its part of the files.

    Raises:
      OSError: a file cannot be read, or the manifest not be written.
    """
    names = sorted(_names(folder))[index::count]
    with ThreadPoolExecutor(THREADS) as pool:
        sums = pool.map(lambda name: checksum(folder / name), names)
        files = dict(zip(names, sums, strict=True))
    text = json.dumps({"count": count, "files": files})
    write_atomically(folder / f"{PREFIX}{index:04d}.json", text.encode())


def read_manifest(folder: Path) -> Listed | None:
    """All manifests of a checkpoint; None if one is missing.

    One is missing where a process was killed right after the commit.

    Raises:
      ValueError: names a manifest that cannot be read.
    """
    files: dict[str, tuple[int, int]] = {}
    paths = sorted(folder.glob(f"{PREFIX}*.json"))
    counts = set()
    for path in paths:
        try:
            content = json.loads(path.read_bytes())
            counts.add(content["count"])
            files |= {name: tuple(sums) for name, sums in content["files"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is damaged ({error})") from error
    return files if counts == {len(paths)} else None


def find_damage(folder: Path, index: int = 0, count: int = 1) -> str:
    """The damage of a checkpoint, with the first file that has any; "" for none.

    Each of ``count`` processes checks all sizes and a part of the checksums. Without
    complete manifests process 0 reads all arrays, which finds missing data, but not
    every flipped bit.
    """
    try:
        listed = read_manifest(folder)
        if listed is None:
            return "" if index else _unreadable(folder)
        for name, (size, _) in listed.items():
            _check_size(folder / name, size)
        mine = sorted(listed)[index::count]
        with ThreadPoolExecutor(THREADS) as pool:
            sums = pool.map(lambda name: checksum(folder / name), mine)
            for name, found in zip(mine, sums, strict=True):
                if found != listed[name]:
                    return f"{folder / name} has other bytes than were written"
    except (OSError, ValueError) as error:
        return str(error)
    return ""


def has_manifest(folder: Path) -> bool:
    """Whether all manifests of a checkpoint exist and can be read."""
    try:
        return read_manifest(folder) is not None
    except ValueError:
        return False


def remove_manifests(folder: Path) -> None:
    """Removes the manifests of a checkpoint."""
    for path in folder.glob(f"{PREFIX}*.json"):
        path.unlink()


def checksum(path: Path) -> tuple[int, int]:
    """Size in bytes and CRC-32 of a file."""
    size = crc = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            crc, size = zlib.crc32(chunk, crc), size + len(chunk)
    return size, crc


def total_bytes(names: Iterable[Path]) -> int:
    """Bytes of all files in folders."""
    return sum(
        path.stat().st_size
        for folder in names
        for path in folder.rglob("*")
        if path.is_file()
    )


def _names(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*"):
        if path.is_file() and not path.name.startswith((PREFIX, f".{PREFIX}")):
            yield path.relative_to(folder).as_posix()


def _check_size(path: Path, wanted: int) -> None:
    if not path.is_file():
        raise ValueError(f"{path} is missing")
    size = path.stat().st_size
    if size != wanted:
        raise ValueError(f"{path} has {size} bytes in place of {wanted}")


def _unreadable(folder: Path) -> str:
    """Why a checkpoint without manifests cannot be read; "" if every array can be."""
    committed = folder / COMMITTED
    if not committed.is_file():
        return f"{committed} is missing"
    try:
        json.loads(committed.read_bytes())
        for item in sorted(path.parent for path in folder.glob("*/manifest.ocdbt")):
            spec = {"driver": "ocdbt", "base": f"file://{item.absolute()}/"}
            store = tensorstore.KvStore.open(spec).result()
            for key in store.list().result():
                store.read(key).result()
    except Exception as error:  # tensorstore raises many kinds
        return f"{folder} cannot be read ({str(error).strip().partition(chr(10))[0]})"
    return ""
