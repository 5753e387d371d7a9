"""The batch ledger: loss and digests of the batch of every step, for `replay`.

    ledger/00000001.jsonl         steps 1 to 1000, the rows of process 0
    ledger/00000001-0003.jsonl    the same steps, the rows of process 3

A line is ``{"step": 20, "loss": 0.5, "grad_norm": 1.2, "rows": "0-63", "digest": "...",
"samples": "...", "moved": {"17": 2}}``. ``samples`` holds 4 bytes for every row, in
base64: a digest of its content and of its number in the global sequence. ``digest``
is the digest of these. ``moved`` names the rows whose file could not be used, and how
many places after it the file lies that was used instead; everything else of a batch is
a function of the step. Loss and gradient norm are null where they are not finite.

Every process writes its own rows, without communication. `read` joins them, with the
same digest for any number of processes. A line takes 5.4 bytes per row and about 130
more: 0.5 KB for a batch of 64 samples, 22 KB for 4096 in one process.
"""

import base64
import concurrent.futures
import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Shaped, UInt32

from snapvideo_jax.io import json_lines
from snapvideo_jax.io.json_lines import truncate_after
from snapvideo_jax.training.run_folder import RunFolder
from snapvideo_jax.types import RawBatch

STEPS_PER_FILE = 1000
IN_FLIGHT = 4
"""Batches that may wait for their digest before the loop waits, too."""
ENDING_SECONDS = 10
"""How long a failed run waits for the lines of its last steps."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """The ledger's entry of a step.

    Attributes:
      step: updates of the run after it, from 1.
      loss, grad_norm: of the batch; NaN if not finite.
      samples: digest of each row.
      moved: of rows whose file was replaced: how many places after it the used one is.
    """

    step: int
    loss: float
    grad_norm: float
    samples: Mapping[int, int]
    moved: Mapping[int, int]

    @property
    def digest(self) -> str:
        """Digest of the whole batch."""
        rows = sorted(self.samples)
        return batch_digest(np.array([self.samples[row] for row in rows], np.uint32))


class Ledger:
    """Writes the lines of one process, in a dedicated thread.

    The thread computes digests while the devices run the step, and waits for the loss
    in place of the loop.

    Args:
      folder: of the run.
      batch: samples in a global batch.
      keep_steps: newest steps whose lines are retained, in whole files; 0 writes none.
    """

    def __init__(self, folder: RunFolder, batch: int, keep_steps: int):
        self._folder, self._batch = folder.ledger, batch
        self._keep = keep_steps
        self._index, self._count = jax.process_index(), jax.process_count()
        self._pending: list[concurrent.futures.Future] = []
        self._file = None
        self._cut_back(folder.first)
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "ledger")

    def record(
        self,
        done: int,
        batch: RawBatch,
        moved: Shaped[np.ndarray, "b"],
        metrics: Mapping[str, Any],
    ) -> None:
        """Records a step; returns at once.

        Args:
          done: the step, from 1.
          batch: the rows of this process; must not change afterwards.
          moved: of each row, as in `types.Fetched`.
          metrics: of the step, on the devices.

        Raises:
          OSError: an earlier line could not be written.
        """
        if not self._keep:
            return
        few = {name: metrics[name] for name in ("loss", "grad_norm")}
        self._pending.append(
            self._thread.submit(self._write, done, dict(batch), moved, few)
        )
        ready = sum(each.done() for each in self._pending)
        for _ in range(max(ready, len(self._pending) - IN_FLIGHT)):
            self._pending.pop(0).result()

    def flush(self) -> None:
        """Returns when all lines are on disk.

        Raises:
          OSError: a line could not be written.
        """
        while self._pending:
            self._pending.pop(0).result()
        if self._file:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Ends the thread, after at most `ENDING_SECONDS`."""
        concurrent.futures.wait(self._pending, ENDING_SECONDS)
        self._thread.shutdown(wait=False, cancel_futures=True)
        if self._file and all(each.done() for each in self._pending):
            self._file.close()

    def _write(self, done, batch, moved, metrics) -> None:
        rows = [int(number) % self._batch for number in batch["sample"]]
        places = {row: int(n) for row, n in zip(rows, moved, strict=True) if n}
        line = format_entry(done, rows, sample_digests(batch), places, metrics)
        self._open(done).write(line)
        self._file.flush()

    def _open(self, done: int):
        """The file of a step; removes files of which all steps are too old."""
        part = f"-{self._index:04d}" if self._index else ""
        path = self._folder / f"{_first_of(done):08d}{part}.jsonl"
        if not self._file or self._file.name != str(path):
            if self._file:
                self._file.close()
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = open(path, "a", encoding="utf-8")
            for first, old in self._ours():
                if first + STEPS_PER_FILE <= done - self._keep:
                    old.unlink()
        return self._file

    def _ours(self) -> list[tuple[int, Path]]:
        """First step and path of the files of this process.

        Process 0 takes over the files of processes that only earlier starts had.
        """
        return [
            (begin, path)
            for begin, index, path in _files(self._folder)
            if index == self._index or (self._index == 0 and index >= self._count)
        ]

    def _cut_back(self, first: int | None) -> None:
        for begin, path in self._ours():
            if first is not None and begin > first:
                path.unlink()
            else:
                truncate_after(path, first)


def format_entry(
    step: int,
    rows: Sequence[int],
    samples: UInt32[np.ndarray, "b"],
    moved: Mapping[int, int],
    metrics: Mapping[str, Any],
) -> str:
    """The line of a step, for some rows of its batch."""
    values = {name: float(value) for name, value in metrics.items()}
    line = {
        "step": step,
        **json_lines.finite(values),
        "rows": _as_text(rows),
        "digest": batch_digest(samples),
        "samples": base64.b64encode(samples.astype("<u4").tobytes()).decode(),
    }
    return json.dumps(line | ({"moved": moved} if moved else {})) + "\n"


def read(workdir: Path, first: int = 1, last: int | None = None) -> Iterator[Entry]:
    """The entries of steps ``first`` to ``last``, in order, of those that have one."""
    folder = RunFolder(workdir).ledger
    begins = sorted({begin for begin, _, _ in _files(folder)})
    for begin in begins:
        if begin + STEPS_PER_FILE <= first or (last is not None and begin > last):
            continue
        steps: dict[int, list[dict[str, Any]]] = {}
        for _, _, path in sorted(x for x in _files(folder) if x[0] == begin):
            for part in json_lines.read(path):
                steps.setdefault(part["step"], []).append(part)
        for step in sorted(steps):
            if step >= first and (last is None or step <= last):
                yield _joined(step, steps[step])


def sample_digests(batch: Mapping[str, np.ndarray]) -> UInt32[np.ndarray, "b"]:
    """A digest of the content and the sample number of each row of a batch.

    It depends neither on the other rows nor on the process that has the row.
    """
    names = sorted(set(batch) - {"sample"})  # Digests depend on this order.
    arrays = [np.ascontiguousarray(batch[name]) for name in names]
    found = []
    for row, number in enumerate(batch["sample"]):
        digest = hashlib.blake2b(int(number).to_bytes(8, "little"), digest_size=4)
        for array in arrays:
            digest.update(array[row].data if array.ndim > 1 else array[row].tobytes())
        found.append(int.from_bytes(digest.digest(), "little"))
    return np.array(found, np.uint32)


def batch_digest(samples: UInt32[np.ndarray, "b"]) -> str:
    """The digest of a batch, from the digests of its samples in order."""
    return hashlib.blake2b(samples.astype("<u4").tobytes(), digest_size=8).hexdigest()


def _joined(step: int, parts: Sequence[Mapping[str, Any]]) -> Entry:
    samples, moved = {}, {}
    for part in parts:
        digests = np.frombuffer(base64.b64decode(part["samples"]), "<u4")
        samples |= dict(zip(_as_rows(part["rows"]), digests.tolist(), strict=True))
        moved |= {int(row): places for row, places in part.get("moved", {}).items()}
    loss, norm = (
        math.nan if parts[0][name] is None else parts[0][name]
        for name in ("loss", "grad_norm")
    )
    return Entry(step, loss, norm, samples, moved)


def _files(folder: Path) -> Iterator[tuple[int, int, Path]]:
    """First step, process and path of every file of a ledger."""
    for path in folder.glob("*.jsonl"):
        begin, _, index = path.stem.partition("-")
        yield int(begin), int(index or 0), path


def _first_of(step: int) -> int:
    return (step - 1) // STEPS_PER_FILE * STEPS_PER_FILE + 1


def _as_text(rows: Sequence[int]) -> str:
    """``0-3,8-11`` for 0, 1, 2, 3, 8, 9, 10, 11."""
    runs: list[list[int]] = []
    for row in rows:
        if runs and row == runs[-1][1] + 1:
            runs[-1][1] = row
        else:
            runs.append([row, row])
    return ",".join(f"{begin}-{end}" for begin, end in runs)


def _as_rows(text: str) -> list[int]:
    runs = (map(int, run.split("-")) for run in text.split(","))
    return [row for begin, end in runs for row in range(begin, end + 1)]
