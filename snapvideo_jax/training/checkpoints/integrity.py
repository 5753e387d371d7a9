"""Which files a checkpoint has, with sizes and checksums, and whether they still do.

Orbax puts a checkpoint in place by one rename and reads it without looking for what
happened to its files since. So every process lists a part of them once the checkpoint
is in place, in a file of its own beside them, and before a checkpoint is read all that
is listed is compared: a file that is missing, cut short or changed in a single bit.
Processes share the reading, and what they read is then in the machine's memory for
Orbax.
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
"""What Orbax writes last."""

Listed = Mapping[str, tuple[int, int]]
"""Size in bytes and CRC-32 of files, by their path in the checkpoint."""


def write_manifest(folder: Path, index: int = 0, count: int = 1) -> None:
    """Lists the part of a checkpoint's files that falls to one of ``count`` processes.

    Raises:
      OSError: a file cannot be read, or the list not be written.
    """
    names = sorted(_names(folder))[index::count]
    with ThreadPoolExecutor(THREADS) as pool:
        sums = pool.map(lambda name: checksum(folder / name), names)
        files = dict(zip(names, sums, strict=True))
    text = json.dumps({"count": count, "files": files})
    write_atomically(folder / f"{PREFIX}{index:04d}.json", text.encode())


def read_manifest(folder: Path) -> Listed | None:
    """All that is listed of a checkpoint; None where the lists are not complete.

    A process that was killed right after a checkpoint was put in place leaves it so.

    Raises:
      ValueError: names a list that cannot be read.
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
    """What is wrong with a checkpoint, "" for nothing; names the first file.

    Every one of ``count`` processes checks all sizes and a part of the checksums. A
    checkpoint without a complete list is read by the first process, which finds what
    is missing, but not every flipped bit.
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
    """Whether a checkpoint has a complete list of its files."""
    try:
        return read_manifest(folder) is not None
    except ValueError:
        return False


def remove_manifests(folder: Path) -> None:
    """Removes the lists of a checkpoint."""
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
    """What a checkpoint without a list lacks, "" where every array can be read."""
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
