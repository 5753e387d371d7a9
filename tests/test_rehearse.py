"""A rehearsal injects faults into real processes and reports what was not survived."""

import json
import os
import signal
import subprocess
import sys

import pytest
import xla_flags
from helpers import TINY_CONFIG, tiny_config

from snapvideo_jax.train import train
from snapvideo_jax.training import ledger
from snapvideo_jax.training.rehearse import FAULTS, Outcome, report, runner


@pytest.fixture(scope="module")
def rehearsed(shapes_root, tmp_path_factory):
    """A rehearsal, as JSON: its exit code, its outcomes and its folder."""

    out = tmp_path_factory.mktemp("rehearsal") / "out"
    command = [
        *(sys.executable, "-m", "snapvideo_jax", "rehearse"),
        *("--config", TINY_CONFIG, f"--config.data.root={shapes_root}"),
        *("--out", str(out), "--steps", "12", "--processes", "1", "--json"),
        *("--faults", "sigterm,truncated,other_count,full_disk"),
    ]
    environment = os.environ | {"XLA_FLAGS": xla_flags.FAST_COMPILE}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stdout, done.stderr[-3000:]
    outcomes = {each["fault"]: each for each in json.loads(done.stdout)}
    return done.returncode, outcomes, out


@pytest.mark.slow
def test_faults_are_survived(rehearsed):
    code, outcomes, out = rehearsed
    assert list(outcomes) == ["sigterm", "truncated", "other_count", "full_disk"]
    for each in outcomes.values():
        assert each["survived"], each
        assert len(each["steps_lost"]) == len(each["seconds_to_resume"]) == 1
        assert each["seconds_to_resume"][0] > 0
    assert code == 0
    assert json.loads((out / "rehearsal.json").read_text()) == list(outcomes.values())


@pytest.mark.slow
def test_the_same_processes_end_with_the_same_bits(rehearsed):
    _, outcomes, _ = rehearsed
    for fault in ("sigterm", "truncated", "full_disk"):
        assert outcomes[fault]["exact"] == "bit-equal"
    assert outcomes["sigterm"]["steps_lost"] == [0]
    assert outcomes["truncated"]["steps_lost"][0] >= 2


@pytest.mark.slow
def test_another_number_of_processes_sees_the_same_batches(rehearsed):
    _, outcomes, out = rehearsed
    assert "1 processes, then 2" in outcomes["other_count"]["detail"]
    digests = [
        [entry.digest for entry in ledger.read(out / name)]
        for name in ("undisturbed", "other_count")
    ]
    assert len(digests[0]) == 12 and digests[0] == digests[1]


@pytest.mark.slow
def test_a_full_disk_says_so_and_leaves_a_checkpoint(rehearsed):
    _, outcomes, _ = rehearsed
    assert "remains" in outcomes["full_disk"]["detail"]
    assert "disk is full" in outcomes["full_disk"]["detail"]


# --- Failures ------------------------------------------------------------------------


@pytest.mark.slow
def test_a_different_end_of_a_run_is_detected(shapes_root, trained, tmp_path):
    assert report.compare(trained, trained, same_bits=True) == (True, "bit-equal")
    other = tmp_path / "other"
    train(tiny_config(shapes_root, "optimizer.learning_rate=0.011"), other)
    survived, why = report.compare(other, trained, same_bits=True)
    assert not survived and "arrays differ, as .params" in why
    survived, why = report.compare(other, trained, same_bits=False)
    assert not survived and why.startswith("loss within ")
    seeded = tmp_path / "seeded"
    train(tiny_config(shapes_root, "seed=1"), seeded)
    assert report.compare(seeded, trained, same_bits=False) == (
        False,
        "step 1 had another batch",
    )


def test_a_run_without_progress_fails(shapes_root, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "STALL_SECONDS", 0.5)
    setup = runner.RunSetup(
        ("--config", TINY_CONFIG, f"--config.data.root={shapes_root}"),
        1,
        tmp_path / "programs",
    )
    run = runner.RunProcesses(setup, tmp_path / "run", 1)
    run.signal(signal.SIGSTOP)
    with pytest.raises(
        runner.RehearsalFailed, match="step 3: no step for 0.5 s after 0"
    ):
        run.wait_for_step(3)
    assert not run.alive


def test_the_last_output_of_a_run_is_reported(tmp_path):
    setup = runner.RunSetup(("--config", "nowhere.py"), 1, tmp_path / "programs")
    run = runner.RunProcesses(setup, tmp_path / "run", 1)
    with pytest.raises(
        runner.RehearsalFailed, match="process 0 ended with 2: .*no such Python"
    ):
        run.finish()


def test_a_table_shows_all_faults():
    outcomes = [
        Outcome("sigkill", True, "bit-equal", [0, 3], [1.5, 2.25], "2 kills"),
        Outcome("full_disk", False, detail="it hung"),
    ]
    lines = report.table(outcomes).splitlines()
    assert lines[0].split() == "fault survived steps lost resumed in state".split()
    assert lines[1].split() == "sigkill yes 0 to 3 1.5 to 2.2 s bit-equal".split()
    assert lines[2].split() == "full_disk NO - - -".split()
    assert "resumed in 1.5 to 2.2 s, 2 times; bit-equal" in report.describe(outcomes[0])
    assert (
        report.describe(outcomes[1]).split()
        == "full_disk NOT SURVIVED; it hung".split()
    )


@pytest.mark.parametrize(
    "options, message",
    [
        (("--faults", "flood"), "--faults=flood is unknown; use some of "),
        (("--processes", "1", "--faults", "lost_process"), "needs --processes of at"),
        (("--steps", "5"), "argument --steps: 5 is too small; use 6 or more"),
        (("--config.model.patch_head_width=3",), "patch_head_width"),
    ],
)
def test_what_cannot_be_rehearsed_is_refused(run, tmp_path, options, message):
    out = "--out", tmp_path / "out"
    code, _, errors = run("rehearse", "--config", TINY_CONFIG, *out, *options)
    assert code == 2 and message in errors
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_not_new_is_refused(run, tmp_path):
    (tmp_path / "file").touch()
    options = "--config", TINY_CONFIG, "--out", tmp_path
    code, _, errors = run("rehearse", *options)
    assert code == 2 and "is not empty; use a new folder" in errors


def test_all_faults_have_a_line_of_explanation():
    assert len(FAULTS) == 8
    assert all(fault.__doc__.strip().endswith(".") for fault in FAULTS.values())
