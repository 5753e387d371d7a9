"""A run that is killed and started again ends where one that ran through ends."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from helpers import TINY_CONFIG, kept_steps, read_metrics, restore

STEPS, KILLS = 24, 3
PATIENCE_SECONDS = 240


def command(shapes_root, workdir):
    return [
        *(sys.executable, "-m", "snapvideo_jax", "train"),
        *("--config", f"{TINY_CONFIG}:steps={STEPS}"),
        *("--workdir", str(workdir), f"--config.data.root={shapes_root}"),
    ]


def environment():
    """One device; programs that were compiled before are found again."""
    here = pathlib.Path(__file__).parent.parent
    flags = "--xla_backend_optimization_level=0"
    return os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": str(here)}


def start(shapes_root, workdir):
    """A training process that talks to a file beside its workdir."""
    with open(f"{workdir}.log", "a") as log:
        return subprocess.Popen(
            command(shapes_root, workdir),
            env=environment(),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def finish(process, workdir):
    """Waits for a process to end by itself, without an error."""
    log = pathlib.Path(f"{workdir}.log")
    assert process.wait(PATIENCE_SECONDS) == 0, log.read_text()[-3000:]


def last_step(workdir):
    """Step of the newest whole line of metrics, 0 where there is none."""
    path = workdir / "metrics.jsonl"
    text = path.read_text() if path.is_file() else ""
    lines = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
    return json.loads(lines[-1])["step"] if lines else 0


def kill_after(process, workdir, step, delay):
    """Kills a process a moment after it has written the metrics of a step.

    Returns:
      The step it had come to.
    """
    end = time.monotonic() + PATIENCE_SECONDS
    while last_step(workdir) < step and process.poll() is None:
        assert time.monotonic() < end, "the run makes no progress"
        time.sleep(0.005)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it had ended before it was killed"
    return last_step(workdir)


@pytest.fixture(scope="module")
def runs(shapes_root, tmp_path_factory):
    """Two finished runs, one of them killed three times, and where it was killed."""
    folder = tmp_path_factory.mktemp("resume")
    whole, killed = folder / "whole", folder / "killed"
    finish(start(shapes_root, whole), whole)
    rng, reached, seen = random.Random(0), [], 0
    for part in range(KILLS):
        # Somewhere in the next quarter of the run, and never before new steps.
        step = max(seen, part * STEPS // 4) + rng.randint(1, STEPS // 4 - 1)
        process = start(shapes_root, killed)
        try:
            seen = kill_after(process, killed, step, rng.uniform(0, 0.1))
        finally:
            process.kill()
        reached.append((step, seen))
    finish(start(shapes_root, killed), killed)
    return whole, killed, reached


def test_every_kill_hit_the_training_loop(runs):
    *_, reached = runs
    assert len(reached) == KILLS
    assert all(0 < step <= seen < STEPS for step, seen in reached), reached


def test_a_killed_run_ends_in_the_same_state_bit_by_bit(runs):
    whole, killed, reached = runs
    ours, theirs = restore(killed), restore(whole)
    assert theirs[".step"] == STEPS and set(ours) == set(theirs)
    for part in (".params", ".opt_state", ".ema"):
        assert any(name.startswith(part) for name in ours)
    for name, leaf in theirs.items():
        np.testing.assert_array_equal(ours[name], leaf, err_msg=f"{name}, {reached}")


def test_a_killed_run_leaves_the_record_of_an_uninterrupted_one(runs):
    whole, killed, reached = runs
    timings = {"clips_per_second", "seconds_per_step", "data_wait_share"}
    timings |= {"model_tflops_per_second"}

    def record(workdir):
        return [
            {
                name: value
                for name, value in line.items()
                if name not in timings and not name.startswith("goodput")
            }
            for line in read_metrics(workdir)
        ]

    assert [line["step"] for line in record(whole)] == list(range(1, STEPS + 1))
    assert record(killed) == record(whole), reached


def test_a_killed_run_leaves_only_whole_checkpoints(runs):
    whole, killed, _ = runs
    assert kept_steps(killed) == kept_steps(whole) == [20, 22, 24]
    names = {path.name for path in (killed / "checkpoints").iterdir()}
    assert names == {"20", "22", "24"}
    assert {path.name for path in killed.iterdir()} == {
        *("config.json", "metrics.jsonl", "checkpoints", "tensorboard", "logs"),
        "summary.json",
    }


def test_the_time_of_all_starts_is_kept(runs):
    whole, killed, _ = runs
    summaries = [
        json.loads((workdir / "summary.json").read_text())
        for workdir in (whole, killed)
    ]
    for starts, summary in zip((1, KILLS + 1), summaries, strict=True):
        assert summary["runs"] == starts and summary["ended"] == "finished"
        assert sum(summary["seconds"].values()) == pytest.approx(
            summary["wall_seconds"]
        )
        assert summary["step"] == summary["steps"] == STEPS
