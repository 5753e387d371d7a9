"""Batches, fetched by a thread, so that the loop can be told to stop while it waits."""

import queue
import threading
from typing import Any

from snapvideo_jax.preemption import Stop

TOLD_SECONDS = 0.5
"""Worker processes that read may die of the same signal, before this one hears it."""


class Feed:
    """The batches of an iterator, one by one, each with the iterator's state after it.

    Args:
      iterator: of batches, with ``get_state`` and ``close``. It moves on only when a
        batch is asked for.
      stop: hears that the run is to stop.
    """

    def __init__(self, iterator: Any, stop: Stop):
        self._iterator, self._stop = iterator, stop
        self._asked: queue.SimpleQueue = queue.SimpleQueue()
        self._fetched: list = []
        self._busy = False
        self._thread = threading.Thread(target=self._fetch, daemon=True)
        self._thread.start()

    def next(self, step: int) -> tuple[Any, Any] | None:
        """The batch of update ``step`` and the iterator's state; None ends the run.

        Raises:
          Exception: what the iterator raises, unless the run was told to stop.
        """
        self._busy = True
        self._asked.put(True)
        with self._stop.changed:
            while not self._fetched and not self._stop.ends_before(step):
                self._stop.changed.wait()
            if not self._fetched:
                return None
            batch, state, error = self._fetched.pop()
            self._busy = False
            if error and not self._stop.told:
                self._stop.changed.wait(TOLD_SECONDS)
        if not error:
            return (batch, state) if self._stop.may_begin(step) else None
        if self._stop.told and not self._stop.may_begin(step):
            return None
        raise error

    def close(self) -> None:
        """Closes the iterator, unless it is still at a batch that nobody waits for."""
        self._asked.put(False)
        if not self._busy:
            self._thread.join()
            self._iterator.close()

    def _fetch(self) -> None:
        while self._asked.get():
            batch = state = error = None
            try:
                batch = next(self._iterator)
                state = self._iterator.get_state()
            except BaseException as caught:
                error = caught
            with self._stop.changed:
                self._fetched.append((batch, state, error))
                self._stop.changed.notify_all()
