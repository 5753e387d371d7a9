"""Batches, fetched by a thread, one ahead; the loop can be told to stop meanwhile."""

import queue
import threading
from typing import Any

from snapvideo_jax.training.preemption import Preemption
from snapvideo_jax.types import Fetched

SIGNAL_SECONDS = 0.5
"""Worker processes that read may die of the same signal, before this one hears it."""
CLOSE_SECONDS = 1.0
"""What a batch that nobody waits for may still take, before it is left alone."""


class Prefetch:
    """The batches of an iterator, one by one, each with the iterator's state after it.

    While an update runs, the next batch is fetched: whatever the iterator does in the
    training process, such as to embed captions, costs the loop no time.

    Args:
      iterator: of batches, with ``get_state`` and ``close``. It is one batch ahead of
        what was given out, and goes no further after an error.
      stop: hears that the run is to stop.
    """

    def __init__(self, iterator: Any, preemption: Preemption):
        self._iterator, self._preemption = iterator, preemption
        self._asked: queue.SimpleQueue = queue.SimpleQueue()
        self._fetched: list = []
        self._thread = threading.Thread(target=self._fetch, daemon=True)
        self._asked.put(True)
        self._thread.start()

    def next(self, step: int) -> tuple[Fetched, Any] | None:
        """The batch of update ``step`` and the iterator's state; None ends the run.

        Raises:
          Exception: what the iterator raises, unless the run was told to stop.
        """
        with self._preemption.changed:
            while not self._fetched and not self._preemption.ends_before(step):
                self._preemption.changed.wait()
            if not self._fetched:
                return None
            batch, state, error = self._fetched.pop()
            if error and not self._preemption.requested:
                self._preemption.changed.wait(SIGNAL_SECONDS)
        if not error:
            if not self._preemption.may_begin(step):
                return None
            self._asked.put(True)
            return batch, state
        if self._preemption.requested and not self._preemption.may_begin(step):
            return None
        raise error

    def close(self) -> None:
        """Closes the iterator, unless it is still at a batch that nobody waits for."""
        self._asked.put(False)
        self._thread.join(CLOSE_SECONDS)
        if not self._thread.is_alive():
            self._iterator.close()

    def _fetch(self) -> None:
        while self._asked.get():
            batch = state = error = None
            try:
                batch = next(self._iterator)
                state = self._iterator.get_state()
            except BaseException as caught:
                error = caught
            with self._preemption.changed:
                self._fetched.append((batch, state, error))
                self._preemption.changed.notify_all()
