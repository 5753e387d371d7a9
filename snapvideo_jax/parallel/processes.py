"""The processes of a run: they are joined at its start, and stop together.

Every process runs the same command, and `processes` joins them before a device is
touched. JAX recognizes Cloud TPU pods, GKE, SLURM and Open MPI; elsewhere
`ProcessOptions` or variables give the address of process 0, the number of processes and
the index of this one. A process that fails publishes its error through the coordinator,
so that all processes end with it instead of waiting in the middle of a step.
"""

import contextlib
import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import jax

from snapvideo_jax.io.errors import Preempted, RunStopped, first_line
from snapvideo_jax.parallel import logs
from snapvideo_jax.parallel.coordinator import barrier, client, publish, state, wait_for
from snapvideo_jax.parallel.process_settings import (
    SINGLE_PROCESS,
    ProcessOptions,
    setting,
    settings,
    whole_number,
)

logger = logging.getLogger(__name__)

TASKS = ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")
"""Variables in which launchers give the number of processes that they start."""
CONNECT_SECONDS = 300
"""Longest wait for other processes at the start, unless connect_seconds is set."""
GRACE_SECONDS = 10
"""Time in which a process that has to end may finish what it can."""
ENDING = "snapvideo/ending"
"""The coordinator's key for the reason why the run ends."""


def initialize(options: ProcessOptions) -> None:
    """Joins the processes of a run where there are several.

    Must come before anything that touches a device.

    Raises:
      ValueError: the settings are wrong, or the processes do not find each other.
    """
    found = settings(options, os.environ)
    wait = setting("connect_seconds", options, os.environ)
    seconds = whole_number(wait, least=1) if wait else CONNECT_SECONDS
    if found == SINGLE_PROCESS or jax.distributed.is_initialized():
        return
    tasks = {os.environ.get(name) for name in TASKS} - {None}
    if not found and tasks == {"1"}:
        return  # JAX would join it with itself, and leave it one GPU
    where = {}
    if found:
        where = dict(
            coordinator_address=found.coordinator,
            num_processes=found.count,
            process_id=found.index,
            cluster_detection_method="deactivate",
        )
        if found.index:
            _wait_for_coordinator(found.coordinator, seconds)
        else:
            _check_port(found.coordinator)
    # It would intercept SIGTERM, which `preemption` handles; the reasons are there.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        with _deadline(seconds):
            jax.distributed.initialize(**where, initialization_timeout=2 * seconds + 60)
    except ValueError as error:
        # JAX's message where it recognizes no cluster.
        if not found and "coordinator_address should be defined" in str(error):
            return
        raise
    except RuntimeError as error:
        raise ValueError(
            f"The processes cannot be joined ({first_line(error)}); correct what is "
            "named here, or set SNAPVIDEO_PROCESS_COUNT=1 to run this one by itself."
        ) from error


@contextlib.contextmanager
def processes(
    options: ProcessOptions, folder: str | Path | None, always_log: bool = False
) -> Iterator[None]:
    """A context that joins the processes of a run and ends them together.

    Args:
      options: as for `initialize`.
      folder: of the log files, one for each process.
      always_log: writes the log of a single process as well.

    Raises:
      ValueError: as `initialize`. With one process, errors inside pass through; with
        several, all exit with the message of the first that fails.
    """
    initialize(options)
    several = jax.distributed.is_initialized() and jax.process_count() > 1
    with contextlib.ExitStack() as stack:
        if folder and (several or always_log):
            stack.enter_context(logs.to_file(Path(folder)))
        if not several:
            try:
                yield
            except Exception as error:
                if folder and Path(folder).is_dir():
                    logger.debug("The run failed.", exc_info=error)
                raise
            return
        monitor = _Monitor()
        try:
            yield
        except BaseException as error:
            monitor.fail(error)
            raise
        monitor.finish()


def enable_compilation_cache(folder: Path) -> None:
    """Caches compiled programs in a folder, for all processes and later starts.

    JAX_COMPILATION_CACHE_DIR takes precedence. Process 0 writes, all read.
    """
    if not jax.config.jax_compilation_cache_dir:
        path = str((folder / "compile_cache").absolute())
        jax.config.update("jax_compilation_cache_dir", path)


def end_all_processes(error: RunStopped) -> None:
    """Ends all processes immediately with the message of ``error``; from any thread."""
    line, code = _verdict(error)
    logger.debug("The run ends: %s", line)
    if state().client and state().num_processes > 1:
        publish(ENDING, json.dumps((line, code, 0)))
        time.sleep(GRACE_SECONDS)  # the monitor's thread exits before this is over
    else:
        _print_line(line)
    _leave(code)


class _Monitor:
    """Ends this process when another fails, and reports a failure of this one.

    A dedicated thread waits for the coordinator, since the main thread may be inside a
    step that never finishes.
    """

    def __init__(self):
        self._index = jax.process_index()
        self._stopped = threading.Event()  # the main thread has finished
        self._thread = threading.Thread(target=self._wait, daemon=True)
        self._thread.start()

    def fail(self, error: BaseException) -> None:
        """Ends all processes with the message of ``error``, unless they already end."""
        logger.debug("This process failed.", exc_info=error)
        publish(ENDING, json.dumps((*_verdict(error), GRACE_SECONDS)))
        self._stopped.set()
        self._thread.join(4 * GRACE_SECONDS)

    def finish(self) -> None:
        """Waits until all processes have finished, and stops the thread."""
        barrier("end")
        if self._index == 0:
            client().key_value_set(ENDING, "null")
        self._thread.join()

    def _wait(self) -> None:
        verdict = wait_for(ENDING)
        if verdict is None:
            return  # the coordinator has stopped, and JAX ends this process
        if verdict == "null":
            return
        line, code, patience = json.loads(verdict)
        self._stopped.wait(patience)
        logger.debug("The run ends: %s", line)
        if self._index == 0:
            _print_line(line)
        # Process 0 is the coordinator: it exits last, after the others were informed.
        with contextlib.suppress(RuntimeError):
            client().wait_at_barrier(f"{ENDING}/heard", 3000 * GRACE_SECONDS)
        time.sleep(0 if self._index else 0.5)
        _leave(code)


def exit_process(error: RunStopped) -> None:
    """Ends this process alone, with the message of ``error`` and its exit code."""
    _print_line(_verdict(error)[0])
    _leave(error.exit_code)


def _verdict(error: BaseException) -> tuple[str, int]:
    """The line that all processes print at the end, and their exit code."""
    if isinstance(error, Preempted):
        return f"snapvideo: stopped: {error}", error.exit_code  # the same for all
    code = getattr(error, "exit_code", 2 if isinstance(error, ValueError) else 1)
    line = str(error) if code > 1 else f"{type(error).__name__}: {error}"
    if state().process_id:
        line = f"process {state().process_id}: {line}"
    word = "stopped" if isinstance(error, RunStopped) else "error"
    return f"snapvideo: {word}: {line if code > 1 else line.splitlines()[0]}", code


def _leave(code: int) -> None:
    """Ends this process; an ordinary exit would wait for other threads."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _check_port(address: str) -> None:
    """Checks that process 0 can listen; JAX itself would crash."""
    port = int(address.rpartition(":")[2])
    try:
        socket.create_server(("", port)).close()
    except OSError as error:
        raise ValueError(
            f"Process 0 cannot listen at the coordinator {address} ({error}); use "
            "another port in SNAPVIDEO_COORDINATOR."
        ) from error


def _wait_for_coordinator(address: str, seconds: int) -> None:
    """Waits until process 0 listens."""
    host, _, port = address.rpartition(":")
    end, problem = time.monotonic() + seconds, None
    while (left := end - time.monotonic()) > 0:
        try:
            socket.create_connection((host.strip("[]"), int(port)), left).close()
            return
        except OSError as error:
            problem = error
            time.sleep(min(0.2, max(left, 0)))
    raise ValueError(
        f"No process listens at the coordinator {address} after {seconds} s "
        f"({problem}); start process 0 there, correct SNAPVIDEO_COORDINATOR, or wait "
        "longer with SNAPVIDEO_CONNECT_SECONDS."
    )


@contextlib.contextmanager
def _deadline(seconds: int) -> Iterator[None]:
    """Ends the program where other processes are missing; JAX itself would abort."""

    def give_up():
        _print_line(
            f"snapvideo: error: Not all processes joined within {seconds} s; start all "
            "of them with the same coordinator and count, or wait longer with "
            "SNAPVIDEO_CONNECT_SECONDS."
        )
        os._exit(2)

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _print_line(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
