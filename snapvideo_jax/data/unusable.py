"""Lists of the files that could not be used (``skipped.jsonl``), with the reasons."""

import fcntl
import json
import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from snapvideo_jax.data.container import SlowClip, UnusableClip
from snapvideo_jax.io import json_lines
from snapvideo_jax.io.captions import KINDS, Kind

SkippedFile = dict[str, Any]
"""``kind``, ``file``, ``reason``, and ``of``: the number of files of this kind."""

log = logging.getLogger(__name__)


def list_path(workdir: Path, process_index: int) -> Path:
    """Path of the list of one process of a run.

    Not every file system lets several machines append to one file, so each process has
    its own list; process 0 merges the others into its own, which is the run's.
    """
    if process_index == 0:
        return workdir / "skipped.jsonl"
    return workdir / "logs" / f"skipped_{process_index:04d}.jsonl"


def merge_lists(workdir: Path, delete_parts: bool = False) -> list[SkippedFile]:
    """Merges the lists of the other processes into the run's, each file once.

    For process 0 only.

    Args:
        workdir: of the run.
        delete_parts: delete the other lists; only while no other process writes.

    Returns:
        The entries of the run's list.
    """
    ours = list_path(workdir, 0)
    for part in sorted((workdir / "logs").glob("skipped_*.jsonl")):
        for entry in json_lines.read(part):
            append_once(ours, entry)
        if delete_parts:
            part.unlink()
    return json_lines.read(ours)


def append_once(path: Path, entry: SkippedFile) -> list[SkippedFile]:
    """Appends an entry to a list and logs it, unless the list has the file already.

    Returns:
        The entries of the list.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as stream:
        # Worker processes share the list: read it again under the lock.
        fcntl.flock(stream, fcntl.LOCK_EX)
        stream.seek(0)
        entries = [json.loads(line) for line in stream]
        if entry["file"] not in {known["file"] for known in entries}:
            stream.write(json.dumps(entry) + "\n")
            log.warning("Skipping %s: %s", entry["file"], entry["reason"])
            entries.append(entry)
    return entries


def check_share(
    entries: Sequence[SkippedFile], max_share: float, path: Path | None = None
) -> None:
    """Refuses to continue with too many unusable files.

    Args:
        entries: all unusable files.
        max_share: tolerated share of the files of a kind, in 0..1.
        path: of their list, for the error.

    Raises:
        ValueError: the share of a kind is larger.
    """
    for kind in KINDS:
        found = [entry for entry in entries if entry["kind"] == kind]
        if found and len(found) > max_share * found[-1]["of"]:
            where = f"; {path} lists them" if path else ""
            again = f", delete {path.name}" if path else ""
            raise ValueError(
                f"{len(found)} of {found[-1]['of']} {kind}s cannot be used, more than "
                f"the share data.max_skipped_share={max_share:g} (last: "
                f"{found[-1]['file']}: {found[-1]['reason']}){where}. Repair the "
                f"files{again} and start again, or raise data.max_skipped_share."
            )


class Skipped:
    """Counts unusable files and lists each once, with the reason.

    Safe between threads, and between processes that append to one list.

    Args:
        path: the list, JSON lines. Files that an earlier run listed are counted and
            not logged again. None: a list in memory.
        max_share: tolerated share of the files of a kind, in 0..1.
    """

    def __init__(self, path: str | Path | None, max_share: float):
        self._path = Path(path) if path else None
        self._max_share = max_share
        self._entries: list[SkippedFile] = []
        self._lock = threading.Lock()
        # Reading a slow file again might succeed, which would change the sequence of
        # samples; every other file fails again when it is read.
        listed = json_lines.read(self._path) if self._path else []
        self._slow = {x["file"]: x["reason"] for x in listed if x.get("slow")}

    def count(self, kind: Kind) -> int:
        """Number of unusable files of a kind that this process found."""
        return sum(entry["kind"] == kind for entry in self._entries)

    def refuse_slow(self, file: str) -> None:
        """Refuses a file that exceeded its time limit before, also in an earlier run.

        Raises:
            SlowClip: it did.
        """
        if file in self._slow:
            raise SlowClip(self._slow[file])

    def add(self, kind: Kind, file: str, error: UnusableClip, total: int) -> None:
        """Lists a file that is skipped.

        Args:
            kind, file, error: the file and why it is skipped.
            total: number of files of this kind in the data.

        Raises:
            ValueError: too many files of this kind cannot be used.
        """
        entry = {"kind": kind, "file": file, "reason": str(error), "of": total}
        with self._lock:
            if any((x["kind"], x["file"]) == (kind, file) for x in self._entries):
                return
            if isinstance(error, SlowClip):
                self._slow[file] = entry["reason"]
                entry["slow"] = True
            self._entries.append(entry)
            if self._path:
                entries = append_once(self._path, entry)
            else:
                log.warning("Skipping %s: %s", file, entry["reason"])
                entries = self._entries
            check_share(entries, self._max_share, self._path)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._lock = threading.Lock()
