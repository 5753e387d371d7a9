"""Goodput: where the wall time of a run goes, over all its starts.

Every second of the main thread belongs to one part, so the parts add up to the wall
time. ``summary.json`` in the workdir stores the sums over all starts of the run. Steps
that a killed start did after its last checkpoint are recomputed: their seconds count as
lost. The time between the last write of one start and the beginning of the next is
reported separately.
"""

import contextlib
import json
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from snapvideo_jax.io.files import write_json
from snapvideo_jax.training.run_folder import RunFolder

logger = logging.getLogger(__name__)

PARTS = {
    "start": "starting",
    "restore": "checking and reading a checkpoint",
    "compile": "compiling",
    "data": "waiting for data",
    "step": "waiting for the device",
    "save": "waiting for a checkpoint to be saved",
    "evaluation": "making sheets",
    "other": "in the host's own code",
}
"""Parts of the time of a process, and what it is doing then."""
REPEATED = ("data", "step")
"""Parts whose seconds are lost where steps are recomputed."""
MARKS = 50
"""Newest checkpoints whose time is stored."""


class Goodput:
    """A clock that always runs for one of `PARTS`, initially "start".

    Args:
      before: seconds before this call that count as "start".
    """

    def __init__(self, before: float = 0.0):
        self._began = self._since = time.monotonic()
        self._before = before
        self._seconds = dict.fromkeys(PARTS, 0.0) | {"start": before}
        self._stack = ["start"]

    @contextlib.contextmanager
    def timing(self, part: str) -> Iterator[None]:
        """Time in this context belongs to ``part``, except in nested contexts."""
        self._turn()
        self._stack.append(part)
        try:
            yield
        finally:
            self._turn()
            self._stack.pop()

    def started(self) -> None:
        """From now on time outside of all contexts belongs to "other"."""
        self._turn()
        self._stack[0] = "other"

    @property
    def current(self) -> tuple[str, float]:
        """The part that the clock runs for, and since when; for any thread."""
        return self._stack[-1], self._since

    def seconds(self) -> dict[str, float]:
        """Seconds of each part until now."""
        self._turn()
        return dict(self._seconds)

    def wall(self) -> float:
        """Seconds since the start of the process, measured as one interval."""
        return self._before + time.monotonic() - self._began

    def _turn(self) -> None:
        now = time.monotonic()
        self._seconds[self._stack[-1]] += now - self._since
        self._since = now


class RunSummary:
    """``summary.json`` of a run: its time over all starts.

    Args:
      folder: of the run.
      goodput: of this start.
    """

    def __init__(self, folder: RunFolder, goodput: Goodput):
        self._path = folder.path / "summary.json"
        self._goodput, self._steps = goodput, folder.last
        first = folder.first or 0
        now = time.time() - goodput.wall()
        past = _read(self._path) if first else {}
        self._runs = past.get("runs", 0) + 1
        self._between = past.get("between_seconds", 0.0)
        if past:
            self._between += max(now - past["written"], 0.0)
        self._past = dict.fromkeys((*PARTS, "lost"), 0.0) | past.get("seconds", {})
        self._lost_steps = past.get("lost_steps", 0)
        self._marks = {
            int(step): mark
            for step, mark in past.get("saved", {}).items()
            if int(step) <= first
        }
        if past:
            self._lose(first, past["step"])

    def _lose(self, first: int, reached: int) -> None:
        """Counts the time after step ``first`` as lost."""
        self._lost_steps += max(reached - first, 0)
        if reached <= first or first not in self._marks:
            return
        for part in REPEATED:
            seconds = max(self._past[part] - self._marks[first][part], 0.0)
            self._past[part] -= seconds
            self._past["lost"] += seconds

    def seconds(self) -> dict[str, float]:
        """Seconds of each part over all starts, including "lost"."""
        now = self._goodput.seconds()
        return {part: past + now.get(part, 0.0) for part, past in self._past.items()}

    def shares(self) -> dict[str, float]:
        """Shares of the wall time of all starts."""
        seconds = self.seconds()
        whole = sum(seconds.values())
        return {part: each / whole for part, each in seconds.items()}

    def saved(self, step: int) -> None:
        """Stores the time of a checkpoint."""
        seconds = self.seconds()
        self._marks[step] = {part: seconds[part] for part in REPEATED}
        for old in sorted(self._marks)[:-MARKS]:
            del self._marks[old]

    def write(self, step: int, ended: str | None = None) -> None:
        """Writes the file.

        Args:
          step: that the run has reached.
          ended: why this start ends; None while it continues.
        """
        seconds = self.seconds()
        wall = sum(seconds.values())
        content = {
            "step": step,
            "steps": self._steps,
            "ended": ended,
            "runs": self._runs,
            "restarts": self._runs - 1,
            "goodput": seconds["step"] / wall,
            "wall_seconds": wall,
            "seconds": seconds,
            "between_seconds": self._between,
            "lost_steps": self._lost_steps,
            "this_run": {
                "wall_seconds": self._goodput.wall(),
                "seconds": self._goodput.seconds(),
            },
            "written": time.time(),
            "saved": self._marks,
        }
        write_json(self._path, content)

    def log(self) -> None:
        """Logs the share of each part."""
        shares, whole = self.shares(), sum(self.seconds().values())
        parts = sorted(shares.items(), key=lambda item: -item[1])
        logger.info(
            "%.4g s in %d start%s: %s; %d steps were recomputed",
            whole,
            self._runs,
            "" if self._runs == 1 else "s",
            ", ".join(f"{part} {share:.1%}" for part, share in parts if share),
            self._lost_steps,
        )


def process_seconds() -> float:
    """Seconds since this process was created; 0 if unknown."""
    try:
        stat = Path("/proc/self/stat").read_text()
        ticks = int(stat.rpartition(")")[2].split()[19])  # since the machine started
        began = ticks / os.sysconf("SC_CLK_TCK")
        return max(time.clock_gettime(time.CLOCK_BOOTTIME) - began, 0.0)
    except (OSError, AttributeError, ValueError, IndexError):
        return 0.0


def _read(path: Path) -> dict[str, Any]:
    """The summary of earlier starts; empty if there is none that can be read."""
    try:
        past = json.loads(path.read_text())
        return past if {"step", "written", "seconds"} <= past.keys() else {}
    except (OSError, ValueError, AttributeError):
        return {}
