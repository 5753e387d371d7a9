"""The processes of a run on this machine, started as a user starts them.

They run on the CPU and connect over loopback, as those of a pod do over its network.
Their progress is read from the run's ledger, which has a line for every step.
"""

import atexit
import dataclasses
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from snapvideo_jax.training.run_folder import RunFolder

STALL_SECONDS = 600
"""Time without progress after which a run counts as failed."""
LOOK_SECONDS = 0.005


class RehearsalFailed(RuntimeError):
    """A run made no progress, or did not end as it should."""


@dataclasses.dataclass(frozen=True)
class RunSetup:
    """What all runs of a rehearsal share.

    Attributes:
      train: arguments of `snapvideo train`, without the workdir.
      devices: of all processes of a run together, divided among them.
      programs: folder of compiled programs.
      flags: more flags of XLA.
    """

    train: tuple[str, ...]
    devices: int
    programs: Path
    flags: str = ""


class RunProcesses:
    """The processes of one start of a run.

    Args:
      setup: of the rehearsal.
      workdir: of the run; the logs of the processes are files next to it.
      count: of processes.
      more: further arguments.

    Attributes:
      began: when they were started, on the monotonic clock.
    """

    def __init__(
        self, setup: RunSetup, workdir: Path, count: int, more: tuple[str, ...] = ()
    ):
        self.workdir, self.began = workdir, time.monotonic()
        coordinator = f"localhost:{_free_port()}"
        workdir.parent.mkdir(parents=True, exist_ok=True)
        self.processes: list[subprocess.Popen] = []
        atexit.register(self.kill)  # also where the rehearsal is stopped by hand
        for index in range(count):
            where = {"SNAPVIDEO_PROCESS_COUNT": str(count)}
            if count > 1:
                where["SNAPVIDEO_COORDINATOR"] = coordinator
                where["SNAPVIDEO_PROCESS_INDEX"] = str(index)
            with open(self.log(index), "ab") as log:
                self.processes.append(
                    subprocess.Popen(
                        [
                            *(sys.executable, "-m", "snapvideo_jax", "train"),
                            *("--workdir", str(workdir), *setup.train, *more),
                        ],
                        env=_environment(setup, count) | where,
                        stdout=log,
                        stderr=log,
                        start_new_session=True,
                    )
                )

    def log(self, index: int = 0) -> Path:
        """Log of a process, over all starts."""
        return Path(f"{self.workdir}.{index}.log")

    @property
    def alive(self) -> bool:
        """Whether any process is running."""
        return any(each.poll() is None for each in self.processes)

    def signal(self, number: int, indices: tuple[int, ...] | None = None) -> None:
        """Sends a signal to processes, by default to all of them."""
        for index in range(len(self.processes)) if indices is None else indices:
            if self.processes[index].poll() is None:
                self.processes[index].send_signal(number)

    def kill(self) -> None:
        """Kills all processes and their reader processes."""
        for each in self.processes:
            if each.poll() is None:
                os.killpg(each.pid, signal.SIGKILL)
                each.wait()

    def limit_files(self, size: int) -> None:
        """Limits the size of files that the processes write, in bytes."""
        for each in self.processes:
            resource.prlimit(each.pid, resource.RLIMIT_FSIZE, (size, size))

    def wait_until(self, reached: Callable[[], bool], what: str) -> bool:
        """Waits for a condition; False if the processes exit before.

        Raises:
          RehearsalFailed: no step finished for `STALL_SECONDS`.
        """
        end, last = time.monotonic() + STALL_SECONDS, -1
        while not reached():
            if not self.alive:
                return reached()
            if (step := last_step(self.workdir)) != last:
                end, last = time.monotonic() + STALL_SECONDS, step
            if time.monotonic() > end:
                self.kill()
                raise RehearsalFailed(
                    f"{what}: no step for {STALL_SECONDS} s after {last}"
                )
            time.sleep(LOOK_SECONDS)
        return True

    def wait_for_step(self, step: int) -> bool:
        """Waits for a step; False if the processes exit before."""
        return self.wait_until(lambda: last_step(self.workdir) >= step, f"step {step}")

    def wait_for_exit(self, seconds: float = STALL_SECONDS) -> list[int]:
        """Waits until all processes exit; returns their exit codes.

        Raises:
          RehearsalFailed: they do not exit within ``seconds``.
        """
        end = time.monotonic() + seconds
        for each in self.processes:
            try:
                each.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired as error:
                self.kill()
                raise RehearsalFailed(
                    f"the processes did not end within {seconds:g} s"
                ) from error
        return [each.returncode for each in self.processes]

    def finish(self) -> None:
        """Waits until the run finishes.

        Raises:
          RehearsalFailed: it ended with an error; has the last lines of its log.
        """
        self.wait_until(lambda: not self.alive, "the end")
        codes = self.wait_for_exit()
        if any(codes):
            bad = next(index for index, code in enumerate(codes) if code)
            text = self.log(bad).read_text(errors="replace").strip()
            raise RehearsalFailed(
                f"process {bad} ended with {codes[bad]}: {text[-800:]}"
            )


def last_step(workdir: Path) -> int:
    """The newest step in the ledger of process 0; 0 without one."""
    files = sorted(RunFolder(workdir).ledger.glob("????????.jsonl"))
    for path in reversed(files):
        try:
            lines = path.read_bytes().split(b"\n")[:-1]
        except FileNotFoundError:
            continue
        if lines:
            # Lines are long; the step comes first.
            return int(lines[-1].split(b",", 1)[0].split(b":")[1])
    return 0


def is_saving(workdir: Path) -> bool:
    """Whether a checkpoint is half written."""
    return any(RunFolder(workdir).checkpoints.glob("*.orbax-checkpoint-tmp*"))


def _environment(setup: RunSetup, count: int) -> dict[str, str]:
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("SNAPVIDEO_")
    }
    return inherited | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": (
            f"{setup.flags} "
            f"--xla_force_host_platform_device_count={setup.devices // count}"
        ),
        "JAX_COMPILATION_CACHE_DIR": str(setup.programs.absolute()),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]
