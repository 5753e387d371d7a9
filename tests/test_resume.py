"""A run that is killed and started again ends where one that ran through ends."""

import json
import os
import pathlib
import random

import numpy as np
import pytest
import xla_flags
from helpers import TINY_CONFIG, kept_steps, read_metrics, restore

from snapvideo_jax.training import ledger
from snapvideo_jax.training.rehearse import RunProcesses, RunSetup
from snapvideo_jax.training.rehearse.faults import FaultTrial, kill_often

STEPS, KILLS = 24, 5
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(shapes_root, tmp_path_factory):
    """Two finished runs, one of them killed five times, and where it was killed."""
    folder = tmp_path_factory.mktemp("resume")
    setup = RunSetup(
        train=(
            *("--config", f"{TINY_CONFIG}:steps={STEPS}"),
            f"--config.data.root={shapes_root}",
        ),
        devices=1,
        programs=pathlib.Path(os.environ["JAX_COMPILATION_CACHE_DIR"]),
        flags=xla_flags.FAST_COMPILE,
    )
    whole = folder / "whole"
    RunProcesses(setup, whole, 1).finish()
    trial = FaultTrial(
        setup=setup,
        workdir=folder / "killed",
        steps=STEPS,
        every=2,
        count=1,
        kills=KILLS,
        rng=random.Random(0),
    )
    kill_often(trial, {"step": 3, "save": 2})
    return whole, trial.workdir, trial


def test_every_kill_hit_the_training_loop(runs):
    *_, trial = runs
    assert len(trial.kills_at) == len(trial.lost) == KILLS
    assert {kind for kind, *_ in trial.kills_at} == {"step", "save"}
    assert all(0 < step <= STEPS for _, step, _ in trial.kills_at), trial.kills_at
    # While one checkpoint is written the run comes as far as the next: 2 and 2 steps.
    assert all(0 <= lost <= 4 for lost in trial.lost), trial.lost


def test_a_killed_run_ends_in_the_same_state_bit_by_bit(runs):
    whole, killed, trial = runs
    ours, theirs = restore(killed), restore(whole)
    assert theirs[".step"] == STEPS and set(ours) == set(theirs)
    for part in (".params", ".opt_state", ".ema"):
        assert any(name.startswith(part) for name in ours)
    for name, leaf in theirs.items():
        where = f"{name}, {trial.kills_at}"
        np.testing.assert_array_equal(ours[name], leaf, err_msg=where)


def test_a_killed_run_leaves_the_record_of_an_uninterrupted_one(runs):
    whole, killed, trial = runs
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
    assert record(killed) == record(whole), trial.kills_at


def test_a_killed_run_leaves_the_ledger_of_an_uninterrupted_one(runs):
    whole, killed, _ = runs
    assert [entry.step for entry in ledger.read(whole)] == list(range(1, STEPS + 1))
    for path in (whole / "ledger").iterdir():
        assert (killed / "ledger" / path.name).read_bytes() == path.read_bytes()


def test_a_killed_run_leaves_only_whole_checkpoints(runs):
    whole, killed, _ = runs
    assert kept_steps(killed) == kept_steps(whole) == [20, 22, 24]
    names = {path.name for path in (killed / "checkpoints").iterdir()}
    assert names == {"20", "22", "24"}
    files = {"config.json", "metrics.jsonl", "summary.json"}
    folders = {"checkpoints", "ledger", "logs", "tensorboard"}
    assert {path.name for path in killed.iterdir()} == files | folders


def test_the_time_of_all_starts_adds_up(runs):
    whole, killed, _ = runs
    summaries = [
        json.loads((workdir / "summary.json").read_text())
        for workdir in (whole, killed)
    ]
    for starts, summary in zip((1, KILLS + 1), summaries, strict=True):
        # One that was killed right after its first step may have no word in it.
        assert starts - 1 <= summary["runs"] <= starts
        assert summary["ended"] == "finished"
        assert sum(summary["seconds"].values()) == pytest.approx(
            summary["wall_seconds"]
        )
        assert summary["step"] == summary["steps"] == STEPS
