"""The faults: what each does to a run, and how the run is restarted afterwards.

A fault takes a `FaultTrial`, starts the run, does its harm at a step that the seed
decides, and restarts the same command until the run has finished. It raises
`RehearsalFailed` where that does not succeed.
"""

import contextlib
import dataclasses
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from snapvideo_jax.io.errors import Preempted, SaveFailed
from snapvideo_jax.training.rehearse.runner import (
    LOOK_SECONDS,
    RehearsalFailed,
    RunProcesses,
    RunSetup,
    is_saving,
    last_step,
)
from snapvideo_jax.training.run_folder import RunFolder

GRACE_SECONDS = 60
"""Time for processes to end after SIGTERM or on a full disk."""
LOST_SECONDS = 300
"""Time for the other processes to notice that one is gone."""
PAUSE_SECONDS = 5
"""How long the reader processes of a slow loader are suspended."""
SAVE_DELAY = 0.02
"""Longest time from the start of a save to a kill, in seconds."""
STEP_DELAY = 0.2
"""Longest time from a step to a kill, in seconds."""
SHOWN = 600
"""Characters of a run's last line that a report quotes."""


@dataclasses.dataclass
class FaultTrial:
    """One run that meets a fault, and the record of it.

    Attributes:
      setup: of the rehearsal.
      workdir: of the run.
      steps, every: of the run, and between its checkpoints.
      count: of processes.
      kills: of the faults that kill more than once.
      rng: draws the steps at which faults strike.
      lost: steps that were recomputed after each restart.
      seconds: from each restart to the first new step.
      kills_at: kind and step of each kill, and whether a checkpoint was half written.
      notes: for the report.
    """

    setup: RunSetup
    workdir: Path
    steps: int
    every: int
    count: int
    kills: int
    rng: random.Random
    lost: list[int] = dataclasses.field(default_factory=list)
    seconds: list[float] = dataclasses.field(default_factory=list)
    kills_at: list[tuple[str, int, bool]] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

    @property
    def folder(self) -> RunFolder:
        return RunFolder(self.workdir)

    def start(self, count: int = 0, more: tuple[str, ...] = ()) -> RunProcesses:
        """Starts the processes of the run."""
        return RunProcesses(self.setup, self.workdir, count or self.count, more)

    def restart(self, count: int = 0) -> RunProcesses:
        """Starts them again and waits for the first new step; records the time.

        Raises:
          RehearsalFailed: the run does not reach a new step.
        """
        reached = last_step(self.workdir)
        run = RunProcesses(self.setup, self.workdir, count or self.count)
        before = len(_starts(run))
        if not run.wait_until(lambda: len(_starts(run)) > before, "resuming"):
            run.finish()  # raises the reason
        resumed = _starts(run)[-1]
        # The run removes the lines past its checkpoint before it adds new ones.
        if reached > resumed:
            run.wait_until(lambda: last_step(self.workdir) < reached, "resuming")
        if resumed < self.steps:
            run.wait_for_step(min(resumed + 1, self.steps))
        self.seconds.append(time.monotonic() - run.began)
        self.lost.append(max(0, reached - resumed))
        return run

    def random_step(self, part: float = 0.5) -> int:
        """A random step after the first checkpoint and before the last one."""
        low, high = self.every + 1, max(self.every + 1, self.steps - self.every - 1)
        middle = low + part * (high - low)
        spread = (high - low) / 4
        step = round(self.rng.uniform(middle - spread, middle + spread))
        return min(max(step, low), high)


def sigterm(trial: FaultTrial) -> None:
    """All processes receive SIGTERM, as on a preemption: they save and exit."""
    run = trial.start()
    _struck(run, trial.random_step())
    run.signal(signal.SIGTERM)
    codes = run.wait_for_exit(GRACE_SECONDS)
    if set(codes) != {Preempted.exit_code}:
        raise RehearsalFailed(f"SIGTERM: exit codes {codes}, not {Preempted.exit_code}")
    trial.restart().finish()


def sigkill(trial: FaultTrial) -> None:
    """All processes are killed at random times, also while they start or save."""
    kill_often(trial, {"step": 6, "save": 3, "start": 1})


def save_kill(trial: FaultTrial) -> None:
    """All processes are killed while a checkpoint is half written."""
    kill_often(trial, {"save": 1})


def kill_often(trial: FaultTrial, weights: dict[str, int]) -> None:
    """Kills a run repeatedly, then lets it finish.

    Args:
      trial: of the run; kills are spread over its steps.
      weights: of the times of kills: after a ``step``, during a ``save``, and during
        the ``start`` of the processes.
    """
    run, kinds = trial.start(), list(weights)
    for kill in range(trial.kills):
        low, high = (n * trial.steps // (trial.kills + 1) for n in (kill, kill + 1))
        target = trial.rng.randint(low + 1, max(low + 1, high))
        (kind,) = trial.rng.choices(kinds, list(weights.values()))
        if kind == "save":
            run.wait_until(lambda low=low: _saves_past(trial.workdir, low), "a save")
            time.sleep(trial.rng.uniform(0, SAVE_DELAY))
        elif kind == "step":
            run.wait_for_step(max(target, last_step(trial.workdir)))
            time.sleep(trial.rng.uniform(0, STEP_DELAY))
        elif run.alive:
            run.kill()
            run = trial.start()
            time.sleep(trial.rng.uniform(0, max(trial.seconds, default=STEP_DELAY)))
        if not run.alive:
            trial.notes.append(f"the run had ended before kill {kill + 1}")
            break
        run.kill()
        half = is_saving(trial.workdir)
        trial.kills_at.append((kind, last_step(trial.workdir), half))
        run = trial.restart()
    run.finish()
    hits = sum(half for *_, half in trial.kills_at)
    trial.notes.append(f"{len(trial.kills_at)} kills, {hits} during a save")


def truncated(trial: FaultTrial) -> None:
    """The newest checkpoint loses half of its largest file."""
    run = trial.start()
    saved = lambda: len(trial.folder.checkpoint_steps()) >= 2  # noqa: E731
    if not run.wait_until(saved, "two checkpoints"):
        raise RehearsalFailed("the run ended before it had two checkpoints")
    run.kill()
    *_, before, newest = trial.folder.checkpoint_steps()
    largest = _largest(trial.folder.checkpoints / str(newest))
    with largest.open("r+b") as file:
        file.truncate(largest.stat().st_size // 2)
    again = trial.restart()
    resumed = _starts(again)[-1]
    if resumed != before:
        again.kill()
        raise RehearsalFailed(
            f"resumed at step {resumed}, and not at {before}, which is intact"
        )
    again.finish()


def lost_process(trial: FaultTrial) -> None:
    """One process is killed: the others exit by themselves, and all are restarted."""
    run = trial.start()
    _struck(run, trial.random_step())
    gone = trial.rng.randrange(trial.count)
    run.signal(signal.SIGKILL, (gone,))
    began = time.monotonic()
    codes = run.wait_for_exit(LOST_SECONDS)
    others = [code for index, code in enumerate(codes) if index != gone]
    if 0 in others:
        raise RehearsalFailed(f"exit codes {codes}: a process exited with 0")
    trial.notes.append(
        f"process {gone} killed, the others exited after "
        f"{time.monotonic() - began:.1f} s with {others}"
    )
    trial.restart().finish()


def full_disk(trial: FaultTrial) -> None:
    """The disk is full from some step on, and later has space again."""
    with _small_disk(trial.workdir) as resize:
        run = trial.start()
        saved = lambda: len(trial.folder.checkpoint_steps()) >= 1  # noqa: E731
        if not run.wait_until(saved, "a checkpoint"):
            raise RehearsalFailed("the run ended before it had a checkpoint")
        newest = trial.folder.checkpoints / str(trial.folder.checkpoint_steps()[-1])
        if resize:
            # A save may be running, and a disk cannot be smaller than its files.
            room = _used(newest) // 2
            while not resize(shutil.disk_usage(trial.workdir).used + room):
                time.sleep(LOOK_SECONDS)
        else:
            run.limit_files(_largest(newest).stat().st_size // 2)
        codes = run.wait_for_exit(GRACE_SECONDS + LOST_SECONDS)
        text = run.log().read_text(errors="replace").strip().splitlines()[-1]
        if SaveFailed.exit_code not in codes:
            raise RehearsalFailed(
                f"exit codes {codes}, not {SaveFailed.exit_code}: {text}"
            )
        trial.notes.append(text[:SHOWN])
        if resize:
            resize(0)
        trial.restart().finish()
        if resize:  # the comparison comes after the disk is unmounted
            shutil.copytree(trial.workdir, f"{trial.workdir}.copy")
    if resize:
        trial.workdir.rmdir()
        Path(f"{trial.workdir}.copy").rename(trial.workdir)


def slow_loader(trial: FaultTrial) -> None:
    """The reader processes of one process are suspended for some seconds."""
    run = trial.start(more=("--config.data.num_workers=1",))
    _struck(run, trial.random_step())
    readers = _children(run.processes[-1].pid)
    if not readers:
        run.kill()
        raise RehearsalFailed("no reader process was found")
    for reader in readers:
        signal_if_there(reader, signal.SIGSTOP)
    time.sleep(PAUSE_SECONDS)
    before = last_step(trial.workdir)
    for reader in readers:
        signal_if_there(reader, signal.SIGCONT)
    run.finish()
    trial.notes.append(f"suspended for {PAUSE_SECONDS} s, at step {before}")


def other_count(trial: FaultTrial) -> None:
    """The run resumes with fewer and with more processes, on as many devices."""
    counts = [1, 2 * trial.count][trial.count == 1 :]
    run = trial.start()
    for number, count in enumerate(counts, 1):
        _struck(run, trial.random_step(number / (len(counts) + 1)))
        run.kill()
        run = trial.restart(count)
    run.finish()
    trial.notes.append(" processes, then ".join(map(str, [trial.count, *counts])))


FAULTS: dict[str, Callable[[FaultTrial], None]] = {
    each.__name__: each
    for each in (
        *(sigterm, sigkill, save_kill, truncated),
        *(lost_process, full_disk, slow_loader, other_count),
    )
}
"""All faults by name, in the order of a rehearsal."""
NOT_BIT_EXACT = ("other_count",)
"""Faults that change the order of sums, so that bits may differ."""


def signal_if_there(pid: int, number: int) -> None:
    """Sends a signal to a process, which may have exited."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _struck(run: RunProcesses, step: int) -> None:
    """Waits for the step at which a fault strikes."""
    if not run.wait_for_step(step) or not run.alive:
        run.finish()
        raise RehearsalFailed(
            f"the run had ended before the fault could strike at step {step}"
        )


def _saves_past(workdir: Path, step: int) -> bool:
    """Whether a checkpoint past a step is half written."""
    return last_step(workdir) > step and is_saving(workdir)


def _starts(run: RunProcesses) -> list[int]:
    """The steps at which process 0 has resumed until now, 0 for a new run."""
    text = run.log().read_text(errors="replace")
    return [
        int(step) for step in re.findall(r"(?:Resum|Start)ing .* at step (\d+)", text)
    ]


def _largest(folder: Path) -> Path:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return max(files, key=lambda path: path.stat().st_size)


def _used(folder: Path) -> int:
    """Bytes of the files in a folder on a disk with 4 KB pages."""
    page = 4096
    sizes = (path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return sum(-(-size // page) * page for size in sizes)


def _children(pid: int) -> list[int]:
    """Child processes of a process."""
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        found += [int(child) for child in path.read_text().split()]
    return found


@contextlib.contextmanager
def _small_disk(folder: Path) -> Iterator[Callable[[int], bool] | None]:
    """Mounts a tmpfs at a folder; yields a function that sets its size in bytes.

    Size 0 stands for half of the memory. Yields None where the user must not mount; the
    sizes of files are limited then.
    """
    folder.mkdir(parents=True)

    def mount(*options: str) -> bool:
        command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", folder]
        return subprocess.run(command, capture_output=True).returncode == 0

    if not mount("size=50%"):
        yield None
        return
    try:
        yield lambda size: mount("remount", f"size={size}" if size else "size=50%")
    finally:
        subprocess.run(["umount", "-l", folder], capture_output=True)
