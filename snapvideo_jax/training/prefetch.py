"""Batches fetched by a thread, one ahead; preemption ends the wait for a batch."""

import queue
import threading
from typing import Any

from snapvideo_jax.training.preemption import Preemption

SIGNAL_SECONDS = 0.5
"""How long a loader's error waits for SIGTERM: its workers may die of it first."""
CLOSE_SECONDS = 1.0
"""How long `Prefetch.close` waits for a batch that is being fetched."""


class Prefetch:
    """The batches of an iterator, one by one, each with the iterator's state after it.

    The next batch is fetched while an update runs, so that what the iterator does in
    the training process, such as to embed captions, takes no time of the loop.

    Args:
      iterator: of batches, with ``get_state`` and ``close``. It is one batch ahead, and
        stops at an error.
      preemption: of the run.
    """

    def __init__(self, iterator: Any, preemption: Preemption):
        self._iterator, self._preemption = iterator, preemption
        self._asked: queue.SimpleQueue = queue.SimpleQueue()
        self._fetched: list = []
        self._thread = threading.Thread(target=self._fetch, daemon=True)
        self._asked.put(True)
        self._thread.start()

    def next(self, step: int) -> tuple[Any, Any] | None:
        """The batch of update ``step`` and the iterator's state; None once preempted.

        Raises:
          Exception: what the iterator raises, unless the run is preempted.
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
        """Closes the iterator, unless it is still fetching a batch."""
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
