"""Watchdog: if no step finishes, logs what the run hangs at, with all stacks."""

import faulthandler
import logging
import tempfile
import threading
import time

import jax

from snapvideo_jax.io.errors import Stalled
from snapvideo_jax.parallel import coordinator, processes
from snapvideo_jax.training.goodput import PARTS, Goodput

logger = logging.getLogger(__name__)

SLOW = ("start", "restore", "compile", "evaluation")
"""Parts of a run that may take longer than a step."""
TICKS = 20
"""Checks of the watchdog within its time limit."""
STALLED = "snapvideo/stalled"
"""Key of the coordinator under which processes report what they hang at."""


class Watchdog:
    """A thread that logs the stacks of all threads if no step has finished for long.

    Args:
      minutes: without a finished step before it reports; 0 for no watchdog.
      slow_minutes: the same while the run is at one of `SLOW`.
      ends: whether it also ends the run, with the exit code of `Stalled`.
      goodput: reports which part of `PARTS` the run is at.
    """

    def __init__(
        self, minutes: float, slow_minutes: float, ends: bool, goodput: Goodput
    ):
        self._limit, self._slow_limit = 60 * minutes, 60 * slow_minutes
        self._ends, self._goodput = ends, goodput
        self._step, self._beat = 0, time.monotonic()
        self._closed = threading.Event()
        if minutes:
            threading.Thread(target=self._watch, daemon=True).start()

    def step_finished(self, step: int) -> None:
        """A step has finished."""
        self._step, self._beat = step, time.monotonic()

    def close(self) -> None:
        """Ends the watch."""
        self._closed.set()

    def _watch(self) -> None:
        since_slow = reported = 0.0
        is_reported = False  # a stall of this process, which may be over
        while not self._closed.wait(min(self._limit, self._slow_limit) / TICKS):
            part, since = self._goodput.current
            now = time.monotonic()
            if part in SLOW:
                since_slow, limit = now, self._slow_limit
            else:
                since, limit = max(self._beat, since_slow), self._limit
            if is_reported and self._beat > reported:
                coordinator.withdraw(STALLED)
                is_reported = False
            waited = now - max(since, reported)
            if waited > limit:
                self._report_stall(part, waited)
                is_reported, reported = True, time.monotonic()

    def _report_stall(self, part: str, waited: float) -> None:
        # The others notice within two of their checks.
        said = coordinator.poll(STALLED, part, 3 * self._limit / TICKS)
        what = (
            f"No step has finished for {waited / 60:.3g} min, since step {self._step}: "
            f"this process is {PARTS[part]}{_others(said)}"
        )
        logger.error("%s. All threads:\n%s", what, stacks())
        if self._ends:
            error = Stalled(f"{what}; the newest checkpoint remains.")
            processes.end_all_processes(error)


def stacks() -> str:
    """The stacks of all threads of this process."""
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read()


def _others(said: dict[int, str]) -> str:
    """What the other processes report."""
    words = [
        f", process {index} is {PARTS[said[index]] if index in said else 'silent'}"
        for index in range(jax.process_count())
        if index != jax.process_index()
    ]
    return "".join(words)
