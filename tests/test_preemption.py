"""A preempted run saves every finished step, and resumes from there.

The processes are real, and so are the signals. Loaders that hang show that nothing
waits for them.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import xla_flags
from helpers import TINY_CONFIG, kept_steps, read_metrics, restore
from processes import PACKAGE
from test_distributed import end, free_port
from test_distributed import start as start_divided

from snapvideo_jax.io.errors import Preempted
from snapvideo_jax.parallel import processes as distributed
from snapvideo_jax.training import preemption as preemptions
from snapvideo_jax.training.preemption import Preemption
from snapvideo_jax.training.prefetch import Prefetch

HERE = pathlib.Path(__file__).parent
STEPS, HANG_AT, PATIENCE_SECONDS = 12, 6, 600
"""The sixth batch never comes, so five steps are done."""


def command(root, workdir, *overrides):
    return [
        *("train", "--config", f"{TINY_CONFIG}:steps={STEPS}"),
        *("--workdir", str(workdir), f"--config.data.root={root}"),
        *("--config.run.checkpoint_every_steps=100", *overrides),
    ]


def start(root, workdir, *overrides, **more):
    """A run of one process and one device, with pipes for what it says."""
    about = {"XLA_FLAGS": xla_flags.FAST_COMPILE, "PYTHONPATH": PACKAGE}
    about["RECORD"] = os.devnull
    return subprocess.Popen(
        [sys.executable, HERE / "recorded.py", *command(root, workdir, *overrides)],
        env=os.environ | about | more,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(process, workdir, text, index=0):
    """Waits until a text is in the log of a process."""
    log = workdir / "logs" / f"process_{index:04d}.log"
    limit = time.monotonic() + PATIENCE_SECONDS
    while not log.is_file() or text not in log.read_text():
        assert process.poll() is None, process.communicate()[1][-3000:]
        assert time.monotonic() < limit, f"{text!r} is not in {log}"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("preemption")


@pytest.fixture(scope="module")
def whole(shapes_root, folder):
    """The workdir of a run that ran through."""
    ((code, _, errors),) = end([start(shapes_root, folder / "whole")])
    assert code == 0, errors
    return folder / "whole"


@pytest.fixture(scope="module")
def stopped(shapes_root, folder):
    """A run preempted while its loader hangs: workdir, code, errors.

    Its watchdog reports first.
    """
    workdir = folder / "stopped"
    stall = "--config.run.stall_minutes=0.02"
    process = start(shapes_root, workdir, stall, HANG_AT=str(HANG_AT))
    wait_for(process, workdir, f"since step {HANG_AT - 1}: this process is waiting for")
    process.send_signal(signal.SIGTERM)
    ((code, _, errors),) = end([process])
    first = json.loads((workdir / "summary.json").read_text())
    return workdir, code, errors, kept_steps(workdir), first


@pytest.fixture(scope="module")
def resumed(shapes_root, stopped):
    """The same run, started again and finished."""
    ((code, _, errors),) = end([start(shapes_root, stopped[0])])
    assert code == 0, errors
    return stopped[0]


@pytest.mark.slow
def test_a_preempted_run_saves_without_another_batch(stopped):
    _, code, errors, saved, _ = stopped
    assert code == Preempted.exit_code == 75
    assert saved == [HANG_AT - 1]
    line = f"preempted (SIGTERM); step {HANG_AT - 1} is saved; "
    line += "run the same command to resume.\n"
    assert errors.endswith(f"snapvideo: stopped: {line}")
    assert "Traceback" not in errors


@pytest.mark.slow
def test_the_watchdog_says_what_the_run_waits_for(stopped):
    log = (stopped[0] / "logs" / "process_0000.log").read_text()
    assert (
        f"min, since step {HANG_AT - 1}: this process is waiting for data. All threads:"
        in log
    )
    assert "in next" in log and "recorded.py" in log  # the loop, and what hangs


@pytest.mark.slow
def test_it_resumes_bit_by_bit(whole, resumed):
    ours, theirs = restore(resumed), restore(whole)
    assert theirs[".step"] == STEPS
    for name, leaf in theirs.items():
        np.testing.assert_array_equal(ours[name], leaf, err_msg=name)
    losses = [[line["loss"] for line in read_metrics(run)] for run in (resumed, whole)]
    assert losses[0] == losses[1]


@pytest.mark.slow
def test_the_time_of_both_starts_adds_up(stopped, resumed):
    first = stopped[-1]
    both = json.loads((resumed / "summary.json").read_text())
    assert (first["ended"], both["ended"]) == ("Preempted", "finished")
    assert (first["step"], both["step"]) == (HANG_AT - 1, STEPS)
    assert (first["restarts"], both["restarts"], both["lost_steps"]) == (0, 1, 0)
    for part, seconds in first["seconds"].items():
        assert both["seconds"][part] == pytest.approx(
            seconds + both["this_run"]["seconds"].get(part, 0), abs=0.01
        )
    assert both["wall_seconds"] == pytest.approx(sum(both["seconds"].values()))
    for summary in (first, both):
        parts = sum(summary["this_run"]["seconds"].values())
        assert parts == pytest.approx(summary["this_run"]["wall_seconds"], rel=1e-3)
    # It hung for 1.2 s before the watchdog reported.
    assert first["seconds"]["data"] > 1
    assert both["seconds"]["restore"] > 0 and both["between_seconds"] > 0


@pytest.mark.slow
def test_a_run_that_did_no_step_ends_at_once(shapes_root, folder):
    workdir = folder / "early"
    stall = "--config.run.stall_minutes=0.01"
    process = start(shapes_root, workdir, stall, HANG_AT="1")
    wait_for(process, workdir, "All threads")
    process.send_signal(signal.SIGTERM)
    ((code, _, errors),) = end([process])
    assert code == 75
    assert "preempted (SIGTERM) before a step was finished; no step is lost;" in errors
    assert kept_steps(workdir) == []


# --- Several processes ---------------------------------------------------------------


def pair(root, workdir, *overrides, hang=("", "")):
    """Two processes of one run."""
    where = dict(SNAPVIDEO_COORDINATOR=f"localhost:{free_port()}")
    where["SNAPVIDEO_PROCESS_COUNT"] = "2"
    arguments = command(root, workdir, "--config.mesh.fsdp=8", *overrides)
    return [
        start_divided(
            arguments,
            4,
            os.devnull,
            SNAPVIDEO_PROCESS_INDEX=str(index),
            HANG_AT=hang[index] or "0",
            **where,
        )
        for index in range(2)
    ]


@pytest.mark.slow
def test_sigterm_to_one_of_two_processes_saves_the_same_step(shapes_root, folder):
    workdir = folder / "pair"
    stall = "--config.run.stall_minutes=0.05"
    processes = pair(shapes_root, workdir, stall, hang=(str(HANG_AT),) * 2)
    waits = "this process is waiting for data, process 0 is waiting for data"
    wait_for(processes[1], workdir, waits, index=1)
    processes[1].send_signal(signal.SIGTERM)
    ends = end(processes)
    assert [code for code, *_ in ends] == [75, 75], ends
    assert kept_steps(workdir) == [HANG_AT - 1]
    assert f"step {HANG_AT - 1} is saved" in ends[0][2]
    other, log = (
        (workdir / "logs" / f"process_000{index}.log").read_text() for index in (0, 1)
    )
    assert "Preempted: SIGTERM received." in log
    assert "Preempted: SIGTERM received by process 1." in other
    # Any number of processes resumes it.
    ((code, _, errors),) = end([start(shapes_root, workdir)])
    assert code == 0, errors
    assert [line["step"] for line in read_metrics(workdir)] == list(range(1, STEPS + 1))


@pytest.mark.slow
def test_what_cannot_be_saved_in_time_is_left(shapes_root, folder):
    """Process 1 has begun a step for which process 0 never gets its batch."""
    workdir = folder / "odd"
    overrides = ("stall_minutes=0.05", "grace_seconds=2", "checkpoint_every_steps=4")
    overrides = [f"--config.run.{override}" for override in overrides]
    processes = pair(shapes_root, workdir, *overrides, hang=(str(HANG_AT), ""))
    waits = "waiting for the device, process 0 is waiting for data"
    wait_for(processes[1], workdir, waits, index=1)
    processes[0].send_signal(signal.SIGTERM)
    ends = end(processes)
    assert [code for code, *_ in ends] == [75, 75], ends
    assert kept_steps(workdir) == [4]
    assert "run.grace_seconds=2 have passed; the newest checkpoint" in ends[0][2]


# --- Receiving and agreeing, in this process -----------------------------------------


class Ends(list):
    """What ends the program, in place of its end."""

    def __call__(self, error):
        self.append(str(error))


@pytest.fixture
def ends(monkeypatch):
    ends = Ends()
    monkeypatch.setattr(distributed, "end_all_processes", ends)
    return ends


def preempt_this_process(preemption):
    os.kill(os.getpid(), signal.SIGTERM)
    agreed = lambda: preemption.ends_before(10**9)  # noqa: E731
    with preemption.changed:
        assert preemption.changed.wait_for(agreed, PATIENCE_SECONDS)


def test_no_step_begins_after_sigterm(ends):
    before = signal.getsignal(signal.SIGTERM)
    with Preemption().listening() as preemption:
        preemption.start(3, grace_seconds=60)
        preemption.compiled()
        assert not preemption.requested
        assert preemption.may_begin(3) and preemption.may_begin(4)
        preempt_this_process(preemption)
        assert preemption.requested and not preemption.may_begin(5)
        assert preemption.ends_before(5) and not preemption.ends_before(4)
    assert signal.getsignal(signal.SIGTERM) == before
    assert not ends


def test_a_compilation_is_not_waited_for(ends):
    with Preemption().listening() as preemption:
        preemption.start(3, grace_seconds=60)
        assert preemption.may_begin(3)
        preempt_this_process(preemption)
        limit = time.monotonic() + PATIENCE_SECONDS
        while not ends and time.monotonic() < limit:
            time.sleep(0.01)
    assert ends == [
        "preempted (SIGTERM) before a step was finished; the newest checkpoint "
        "remains; run the same command to resume."
    ]


def test_a_second_signal_ends_at_once_unless_it_is_the_same(ends, monkeypatch):
    with Preemption().listening() as preemption:
        preemption.start(0, grace_seconds=60)
        assert preemption.may_begin(0)
        preemption.compiled()
        preempt_this_process(preemption)
        os.kill(os.getpid(), signal.SIGTERM)  # as `timeout` does
        time.sleep(0.2)
        assert not ends
        monkeypatch.setattr(preemptions, "DEBOUNCE_SECONDS", 0.0)
        os.kill(os.getpid(), signal.SIGTERM)
        limit = time.monotonic() + PATIENCE_SECONDS
        while not ends and time.monotonic() < limit:
            time.sleep(0.01)
    assert ends == [
        "preempted (second SIGTERM); the newest checkpoint remains; run the same "
        "command to resume."
    ]


def test_a_main_thread_that_is_busy_elsewhere_holds_nothing_up(ends):
    """Python's own handlers would wait for it, as for a compilation."""
    heard = threading.Event()
    with Preemption().listening() as preemption:
        ended = ends.append
        ends.append = lambda line: (ended(line), heard.set())
        os.kill(os.getpid(), signal.SIGTERM)
        np.linalg.svd(np.random.default_rng(0).normal(size=(300, 300)))
        assert heard.wait(PATIENCE_SECONDS)
        assert preemption.requested
    assert ends == [
        "preempted (SIGTERM) before a step was finished; no step is lost; run the same "
        "command to resume."
    ]


class Batches:
    """An iterator of numbers, each of which is waited for."""

    def __init__(self):
        self.allowed, self.number, self.is_closed = threading.Semaphore(0), 0, False

    def __next__(self):
        self.allowed.acquire()
        if self.number == 3:
            raise OSError("the worker died")
        self.number += 1
        return self.number

    def get_state(self):
        return {"next": self.number}

    def close(self):
        self.is_closed = True


def test_a_feed_gives_each_batch_with_the_state_after_it():
    batches = Batches()
    prefetch = Prefetch(batches, Preemption())
    batches.allowed.release(3)
    assert [prefetch.next(step) for step in range(2)] == [
        (1, {"next": 1}),
        (2, {"next": 2}),
    ]
    prefetch.close()
    assert batches.number == 3, "it is one ahead and no more"
    assert batches.is_closed


def test_the_next_batch_is_fetched_before_anyone_asks():
    batches = Batches()
    prefetch = Prefetch(batches, Preemption())
    for number in (1, 2):
        batches.allowed.release()
        while batches.number < number:
            time.sleep(0.01)
        assert prefetch.next(number - 1) == (number, {"next": number})
    batches.allowed.release()
    prefetch.close()


def test_an_error_ahead_of_the_last_update_hurts_nobody():
    batches = Batches()
    batches.number = 2
    batches.allowed.release(2)
    prefetch = Prefetch(batches, Preemption())
    assert prefetch.next(0) == (3, {"next": 3})
    prefetch.close()
    assert batches.is_closed


def test_a_batch_that_nobody_waits_for_does_not_keep_the_run_from_its_end():
    batches = Batches()
    prefetch = Prefetch(batches, Preemption())
    prefetch.close()
    assert not batches.is_closed, "it is still at its first batch"


def test_an_error_of_the_loader_comes_out_unless_the_run_is_to_stop(ends):
    batches = Batches()
    batches.number = 3
    # Once it no longer listens, the rest of the grace period has no effect.
    with Preemption().listening() as preemption:
        preemption.start(0, grace_seconds=60)
        preemption.compiled()
        prefetch = Prefetch(batches, preemption)
        batches.allowed.release()
        with pytest.raises(OSError, match="the worker died"):
            prefetch.next(0)
        prefetch.close()
        assert preemption.may_begin(0)
        # The workers of a loader may get the signal too, and die before it is received.
        prefetch = Prefetch(batches, preemption)
        batches.allowed.release()
        timer = threading.Timer(0.1, preemption._signalled)
        timer.start()
        assert prefetch.next(1) is None
        prefetch.close()
        assert not ends
