"""Says what a run hangs at: stacks of all threads where no step finishes for long."""

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
"""Parts of a run that may take longer than steps."""
TICKS = 20
"""How often within its limit the watchdog looks."""
STALLED = "snapvideo/stalled"
"""The key under which processes say what they hang at."""


class Watchdog:
    """A thread that dumps stacks to the log where no step has finished for long.

    Args:
      minutes: without a finished step; 0 for no watchdog.
      slow_minutes: the same while the run is at one of `SLOW`.
      ends: whether it also ends the run, with the exit code of `Stalled`.
      goodput: tells what the run is at.
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
        stands = False  # a word of this process, of a stall that may be over
        while not self._closed.wait(min(self._limit, self._slow_limit) / TICKS):
            part, since = self._goodput.current
            now = time.monotonic()
            if part in SLOW:
                since_slow, limit = now, self._slow_limit
            else:
                since, limit = max(self._beat, since_slow), self._limit
            if stands and self._beat > reported:
                coordinator.withdraw(STALLED)
                stands = False
            waited = now - max(since, reported)
            if waited > limit:
                self._report_stall(part, waited)
                stands, reported = True, time.monotonic()

    def _report_stall(self, part: str, waited: float) -> None:
        # The others notice within two of their looks.
        said = coordinator.poll(STALLED, part, 3 * self._limit / TICKS)
        what = (
            f"No step has finished for {waited / 60:.3g} min, since step {self._step}: "
            f"this process is {PARTS[part]}{_others(said)}"
        )
        logger.error("%s. All threads:\n%s", what, stacks())
        if self._ends:
            processes.end_all_processes(
                Stalled(f"{what}; the newest checkpoint stays.")
            )


def stacks() -> str:
    """Where all threads of this process are."""
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read()


def _others(said: dict[int, str]) -> str:
    """What the other processes are at."""
    words = [
        f", process {index} is {PARTS[said[index]] if index in said else 'silent'}"
        for index in range(jax.process_count())
        if index != jax.process_index()
    ]
    return "".join(words)
