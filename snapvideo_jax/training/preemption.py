"""Told to stop: the step at which all processes save, and the time they have for it.

SIGTERM is how platforms tell: Kubernetes, SLURM, a machine that is taken away. It can
come at any moment and to one process only, while the main thread is deep inside of a
compilation or waits for a batch. So a thread of its own hears of it, tells the other
processes through JAX's coordinator, and finds the step: the largest that any of them
has begun. No process begins another one from the moment it hears, but those behind
make up what is missing.

JAX has a preemption service to the same end. It is off, for it looks once a second,
takes the signal away from everything else, and always asks for one more step, which a
slow loader may never bring.
"""

import contextlib
import logging
import signal
import socket
import threading
import time
from collections.abc import Iterator

import jax

from snapvideo_jax.io.errors import Preempted
from snapvideo_jax.parallel import coordinator, processes

logger = logging.getLogger(__name__)

GRACE_SECONDS = 25.0
"""What a run may take to save, unless run.grace_seconds says."""
DEBOUNCE_SECONDS = 1.0
"""A second signal within this is the first one again, as `timeout` sends two."""
REQUESTED = "snapvideo/told"
"""The key under which the coordinator keeps that the run was told to stop."""


class Preemption:
    """Hears that the run is to stop, and agrees on the step after which it does.

    Until `compiled` there is nothing to save, and a run that is told to stop ends at
    once.
    """

    def __init__(self):
        self.changed = threading.Condition()
        """Notified when the run is told to stop, and when the step is agreed on."""
        self._first: int | None = None
        self._started = -1  # updates that were begun, those of earlier runs included
        self._grace = GRACE_SECONDS
        self._requested_at: float | None = None
        self._last: int | None = None
        self._compiled = self._joined = self._finished = False

    # --- For the training loop ----------------------------------------------------

    def start(self, first: int, grace_seconds: float) -> None:
        """From now on there is a state of ``first`` updates, and more to come."""
        with self.changed:
            self._first, self._grace = first, grace_seconds
            if not self.requested:
                self._started = first

    def compiled(self) -> None:
        """The first update is compiled, which may take longer than any grace."""
        self._compiled = True

    @property
    def requested(self) -> bool:
        """Whether the run was told to stop."""
        return self._requested_at is not None

    def ends_before(self, step: int) -> bool:
        """True where the run is known to end before update ``step`` (from 0)."""
        return self._last is not None and step >= self._last

    def may_begin(self, step: int) -> bool:
        """Whether this process may begin update ``step``; it has to, where it may.

        Waits for the other processes where the run was told to stop.
        """
        with self.changed:
            while self.requested and self._last is None:
                self.changed.wait()
            if self.ends_before(step):
                return False
            self._started = step + 1
            return True

    # --- Hearing ------------------------------------------------------------------

    @contextlib.contextmanager
    def listening(self) -> Iterator["Preemption"]:
        """Hears SIGTERM; only in the main thread."""
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        # Python runs handlers between two lines of the main thread, which may be far
        # away. What is written here comes through at once.
        before = signal.signal(signal.SIGTERM, lambda *_: None)
        fd = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._listen, args=(ours,), daemon=True).start()
        try:
            yield self
        finally:
            self._finished = True
            signal.set_wakeup_fd(fd)
            signal.signal(signal.SIGTERM, before)
            theirs.close()

    @contextlib.contextmanager
    def synchronized(self) -> Iterator[None]:
        """Hears also what other processes were told; after they have joined."""
        if jax.process_count() == 1:
            yield
            return
        self._joined = True
        thread = threading.Thread(target=self._hear, daemon=True)
        thread.start()
        yield
        # All are done. A thread that still asks the coordinator may not outlive it.
        self._finished = True
        coordinator.barrier("deaf")
        coordinator.publish(REQUESTED, "")
        thread.join(processes.GRACE_SECONDS)

    def _listen(self, ours: socket.socket) -> None:
        while signals := ours.recv(16):
            if signal.SIGTERM in signals:
                self._signalled()
        ours.close()

    def _signalled(self) -> None:
        if self._requested_at is not None:
            if time.monotonic() - self._requested_at > DEBOUNCE_SECONDS:
                self._end("Told to stop a second time")
            return
        started = self._request("")
        if self._joined:
            coordinator.publish(REQUESTED, f"process {jax.process_index()}")
        else:
            self._agree(started)

    def _hear(self) -> None:
        """Waits for the word of any process, and finds the step with the others."""
        who = coordinator.wait_for(REQUESTED)
        if not who:
            return
        mine = self._request(f" through {who}")
        started = coordinator.gather(f"{REQUESTED}/started", str(mine), self._grace)
        if started is not None:
            self._agree(max(map(int, started)))

    def _request(self, how: str) -> int:
        """Begins the grace period; returns the updates that were begun until now."""
        with self.changed:
            if self._requested_at is not None:
                return self._started  # which has not changed since
            self._requested_at = time.monotonic()
            self.changed.notify_all()
        logger.warning("Told to stop by SIGTERM%s.", how)
        over = f"The {self._grace:g} s of run.grace_seconds are over"
        timer = threading.Timer(self._grace, self._end, (over,))
        timer.daemon = True
        timer.start()
        return self._started

    def _agree(self, last: int) -> None:
        with self.changed:
            self._last = last
            self.changed.notify_all()
            unsaved = last - (self._first or 0)
        if unsaved <= (0 if self._compiled else 1):
            self._end("Told to stop before a step was done")

    def _end(self, why: str) -> None:
        """Ends all processes at once, whatever they do."""
        if not self._finished:
            kept = (
                "the newest checkpoint stays" if self._started > 0 else "none is lost"
            )
            line = f"{why}; {kept}. The same command goes on."
            processes.end_all_processes(Preempted(line))
