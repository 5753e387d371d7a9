"""A record of the files that could not be used, so that none is lost in silence."""

import fcntl
import json
import logging
import threading
from pathlib import Path
from typing import Any

from snapvideo_jax.data.sources import Kind

log = logging.getLogger(__name__)


def list_of(workdir: Path, process_index: int) -> Path:
    """Where a process of a run lists the files it cannot use.

    Not every file system lets machines append to one file in turns, so each process
    has its own list; that of process 0 is the run's, which takes in the others.
    """
    if process_index == 0:
        return workdir / "skipped.jsonl"
    return workdir / "logs" / f"skipped_{process_index:04d}.jsonl"


def gather(workdir: Path, forget: bool = False) -> None:
    """Takes the lists of the other processes into that of the run, each file once.

    For process 0 only.

    Args:
        workdir: of the run.
        forget: removes the other lists; only while no other process writes.
    """
    for part in sorted((workdir / "logs").glob("skipped_*.jsonl")):
        for line in part.read_text().splitlines(keepends=True):
            if line.endswith("\n"):  # else it is still being written
                note(list_of(workdir, 0), **json.loads(line))
        if forget:
            part.unlink()


def note(path: Path, file: str, reason: str) -> None:
    """Adds a file to a list and tells the log, unless the list has it already."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as stream:
        # Reading processes share the list: look again before adding to it.
        fcntl.flock(stream, fcntl.LOCK_EX)
        stream.seek(0)
        if file in {json.loads(line)["file"] for line in stream}:
            return
        stream.write(json.dumps({"file": file, "reason": reason}) + "\n")
    log.warning("Skipping %s: %s", file, reason)


class Skipped:
    """Counts unusable files and writes each to a list once, with the reason.

    Safe to share between threads, and between processes that append to one list.

    Args:
        path: the list, JSON lines with ``file`` and ``reason``; files an earlier run
            put there are not named again. None keeps no list.
        max_share: tolerated share of the files of a kind, in 0..1.
    """

    def __init__(self, path: str | Path | None, max_share: float):
        self._path = Path(path) if path else None
        self._max_share = max_share
        self._seen: dict[Kind, set[str]] = {"video": set(), "image": set()}
        self._lock = threading.Lock()

    def count(self, kind: Kind) -> int:
        """Files of a kind met in this run that could not be used."""
        return len(self._seen[kind])

    def add(self, kind: Kind, file: str, reason: str, total: int) -> None:
        """Notes that a file is passed over.

        Args:
            kind, file, reason: what is passed over, and why.
            total: files of this kind in the data set.

        Raises:
            ValueError: too many files of this kind cannot be used.
        """
        with self._lock:
            if file in self._seen[kind]:
                return
            self._seen[kind].add(file)
            if self._path:
                note(self._path, file, reason)
            else:
                log.warning("Skipping %s: %s", file, reason)
            count = len(self._seen[kind])
        if count > self._max_share * total:
            where = f"; {self._path} lists them" if self._path else ""
            raise ValueError(
                f"{count} of {total} {kind}s cannot be used, more than the share "
                f"data.max_skipped_share={self._max_share:g} (last: {file}: {reason})"
                f"{where}. Repair the files, or raise data.max_skipped_share."
            )

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._lock = threading.Lock()
