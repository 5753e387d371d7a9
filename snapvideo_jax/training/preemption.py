"""Preemption: on SIGTERM all processes agree on a step, save it, and exit.

Platforms announce preemption by SIGTERM: Kubernetes, SLURM, a machine that is taken
away. It can come at any moment and to one process only, while the main thread is deep
inside a compilation or waits for a batch. So a dedicated thread receives it, notifies
the other processes through JAX's coordinator, and determines the step: the largest that
any of them has begun. No process begins another step once it is notified, but those
behind finish the steps that are missing.

JAX's preemption service has the same purpose. It is off, for it polls once a second,
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
"""Time to save, unless run.grace_seconds is set."""
DEBOUNCE_SECONDS = 1.0
"""A second signal within this counts as the first one; `timeout` sends two."""
REQUESTED = "snapvideo/preempted"
"""Key of the coordinator that holds which process received SIGTERM."""


class Preemption:
    """Receives SIGTERM, and agrees with the other processes on the last step.

    Until `compiled` there is nothing to save, and a preempted run exits at once.
    """

    def __init__(self):
        self.changed = threading.Condition()
        """Notified when SIGTERM arrives, and when the step is agreed on."""
        self._first: int | None = None
        self._started = -1  # updates that were begun, in this start or before it
        self._grace = GRACE_SECONDS
        self._requested_at: float | None = None
        self._last: int | None = None
        self._compiled = self._joined = self._finished = False

    # --- For the training loop ----------------------------------------------------

    def start(self, first: int, grace_seconds: float) -> None:
        """The loop starts, with a state of ``first`` updates."""
        with self.changed:
            self._first, self._grace = first, grace_seconds
            if not self.requested:
                self._started = first

    def compiled(self) -> None:
        """The first update is compiled, which may take longer than the grace period."""
        self._compiled = True

    @property
    def requested(self) -> bool:
        """Whether SIGTERM was received, by this process or another."""
        return self._requested_at is not None

    def ends_before(self, step: int) -> bool:
        """True if the agreed last step comes before update ``step`` (from 0)."""
        return self._last is not None and step >= self._last

    def may_begin(self, step: int) -> bool:
        """Whether to begin update ``step``; a process that may also has to finish it.

        After SIGTERM it waits until the processes agree on the last step.
        """
        with self.changed:
            while self.requested and self._last is None:
                self.changed.wait()
            if self.ends_before(step):
                return False
            self._started = step + 1
            return True

    # --- Receiving ----------------------------------------------------------------

    @contextlib.contextmanager
    def listening(self) -> Iterator["Preemption"]:
        """Receives SIGTERM; only in the main thread."""
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        # Python runs handlers between two bytecodes of the main thread, which may take
        # long. The wakeup fd is written to at once.
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
        """Receives also the SIGTERM of other processes; after they have joined."""
        if jax.process_count() == 1:
            yield
            return
        self._joined = True
        thread = threading.Thread(target=self._wait_for_others, daemon=True)
        thread.start()
        yield
        # All are done. A thread that waits for the coordinator must not outlive it.
        self._finished = True
        coordinator.barrier("preemption")
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
                self._end("preempted (second SIGTERM)")
            return
        started = self._request("")
        if self._joined:
            coordinator.publish(REQUESTED, f"process {jax.process_index()}")
        else:
            self._agree(started)

    def _wait_for_others(self) -> None:
        """Waits for the SIGTERM of any process, then agrees on the last step."""
        who = coordinator.wait_for(REQUESTED)
        if not who:
            return
        mine = self._request(f" by {who}")
        started = coordinator.gather(f"{REQUESTED}/started", str(mine), self._grace)
        if started is not None:
            self._agree(max(map(int, started)))

    def _request(self, how: str) -> int:
        """Starts the grace period; returns the updates that were begun until now."""
        with self.changed:
            if self._requested_at is not None:
                return self._started  # which has not changed since
            self._requested_at = time.monotonic()
            self.changed.notify_all()
        logger.warning("Preempted: SIGTERM received%s.", how)
        over = f"preempted; run.grace_seconds={self._grace:g} have passed"
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
            self._end("preempted (SIGTERM) before a step was finished")

    def _end(self, why: str) -> None:
        """Ends all processes at once, whatever they do."""
        if not self._finished:
            has_steps = self._started > 0
            rest = "the newest checkpoint remains" if has_steps else "no step is lost"
            line = f"{why}; {rest}; run the same command to resume."
            processes.end_all_processes(Preempted(line))
