"""Post-hoc EMA on real runs: averages of any length from snapshots of two."""

import json
import shutil

import jax
import numpy as np
import pytest
from helpers import TINY_CONFIG, by_name, read_metrics, restore, tiny_config

from snapvideo_jax import config as configs
from snapvideo_jax import train
from snapvideo_jax.optim import gamma
from snapvideo_jax.parallel.sharding import with_shardings
from snapvideo_jax.state import abstract_state
from snapvideo_jax.training.checkpoints import ema_snapshots, posthoc_ema
from snapvideo_jax.training.checkpoints.ema_snapshots import (
    EmaSnapshotReader,
    UnreadableSnapshot,
)
from snapvideo_jax.training.checkpoints.posthoc_ema import (
    Average,
    EmaOptions,
    plan,
    reconstruct,
)
from snapvideo_jax.training.checkpoints.restore import restore_ema_profile
from snapvideo_jax.training.dry_run import dry_run
from snapvideo_jax.training.run_folder import RunFolder

pytestmark = pytest.mark.slow

STEPS, EVERY, DIRECT = 24, 2, 0.075
TRACKED = ["optimizer.ema_widths=(0.05,0.1)", f"optimizer.ema_snapshot_steps={EVERY}"]
OTHER = [f"optimizer.ema_widths=({DIRECT},)", "optimizer.ema_snapshot_steps=24"]


def config_of(root, *changes):
    rare = ["run.checkpoint_every_steps=8", f"optimizer.steps={STEPS}", "mesh.fsdp=4"]
    return tiny_config(root, *rare, *changes)


@pytest.fixture(scope="module")
def runs(shapes_root, tmp_path_factory):
    """Two runs that differ in what they track, and the parameters of every step."""
    folder, path = tmp_path_factory.mktemp("ema"), []

    class Monitor(train.Monitor):
        def after_step(self, done, state, metrics):
            path.append(by_name(state.params))
            super().after_step(done, state, metrics)

    train.train(config_of(shapes_root, *OTHER), folder / "direct")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "Monitor", Monitor)
        train.train(config_of(shapes_root, *TRACKED), folder / "tracked")
    assert len(path) == STEPS
    return folder / "tracked", folder / "direct", path


@pytest.fixture
def tracked(runs, tmp_path):
    """A copy of the run with two tracks, to be damaged."""
    shutil.copytree(runs[0], tmp_path / "run")
    return tmp_path / "run"


def experiment_of(workdir):
    text = (workdir / "config.json").read_text()
    return configs.build(configs.from_json(text))


def average_in(folder, workdir):
    """The parameters that `snapvideo ema` wrote to a folder, by name."""
    experiment = experiment_of(workdir)
    shapes = ema_snapshots.nn.unbox(abstract_state(experiment)).params
    host = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = with_shardings(shapes, jax.tree.map(lambda _: host, shapes))
    params, step = restore_ema_profile(folder, like)
    return by_name(params), step


def powers(workdir, number):
    """A track of the last checkpoint, by the parameter's name."""
    start = f".powers[{number}]"
    state = restore(workdir)
    return {k[len(start) :]: v for k, v in state.items() if k.startswith(start)}


# --- What is tracked -----------------------------------------------------------------


def test_tracking_changes_nothing_of_a_run(runs):
    tracked, direct, _ = runs
    ours, theirs = restore(tracked), restore(direct)
    for name, value in theirs.items():
        if not name.startswith(".powers"):
            np.testing.assert_array_equal(ours[name], value, err_msg=name)
    losses = [[line["loss"] for line in read_metrics(run)] for run in (tracked, direct)]
    assert losses[0] == losses[1] and len(losses[0]) == STEPS
    assert not any(name.startswith(".powers[1]") for name in theirs)


def test_a_track_weighs_every_step_by_the_integral_of_its_profile(runs):
    tracked, _, path = runs
    edges = np.arange(STEPS + 1) / STEPS
    for number, width in enumerate((0.05, 0.1)):
        share = np.diff(edges ** (gamma(width) + 1))
        for name, value in powers(tracked, number).items():
            expected = sum(w * step[name] for w, step in zip(share, path, strict=True))
            np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-6)


def test_the_last_snapshot_is_the_track_of_the_last_checkpoint(runs):
    tracked, _, _ = runs
    with EmaSnapshotReader(experiment_of(tracked), tracked) as reader:
        every = list(range(EVERY, STEPS + 1, EVERY))
        assert reader.steps == reader.existing_steps() == every
        for number, width in enumerate(reader.widths):
            read = by_name(reader.combine({STEPS: {width: 1.0}}))
            for name, value in powers(tracked, number).items():
                np.testing.assert_array_equal(read[name], value, err_msg=name)


# --- Reconstruction ------------------------------------------------------------------


def test_a_made_average_is_the_tracked_one_within_the_predicted_error(runs, run):
    """The bar: against a third width, tracked directly by the same training."""
    tracked, direct, path = runs
    out = tracked.parent / "made"
    arguments = ["--workdir", tracked, "--length", DIRECT, "--out", out, "--json"]
    code, printed, err = run("ema", *arguments)
    assert code == 0, err
    (about,) = json.loads(printed)
    assert about["step"] == STEPS and about["snapshots"] == STEPS // EVERY
    made, step = average_in(out / f"{DIRECT}-at-{STEPS}", tracked)
    assert step == STEPS

    # The prediction: off by no more than the profile's error (its norm over time)
    # times the norm of how the parameters moved.
    aim = Average(DIRECT, STEPS)
    norm = posthoc_ema.inner_products([aim], [aim]).item() ** 0.5
    share = np.diff((np.arange(STEPS + 1) / STEPS) ** (gamma(DIRECT) + 1))
    assert 1e-4 < about["error"] < 0.02
    off, size = 0.0, 0.0
    for name, value in made.items():
        moved = np.stack([step[name] for step in path]).astype(np.float64)
        exact = np.einsum("s,s...->...", share, moved)
        moved -= moved.mean(axis=0)
        bound = about["error"] * norm * np.sqrt((moved**2).sum(axis=0))
        error = np.abs(value - exact)
        assert (error <= bound + 1e-6).all(), name
        off, size = off + (error**2).sum(), size + (exact**2).sum()
    assert off**0.5 / size**0.5 < about["error"]

    # The same width tracked by the training itself, in float32.
    for name, value in powers(direct, 0).items():
        moved = np.stack([step[name] for step in path]).astype(np.float64)
        bound = about["error"] * norm * np.sqrt(((moved - moved.mean(0)) ** 2).sum(0))
        assert (np.abs(made[name] - value) <= bound + 1e-5).all(), name


def test_parts_of_any_size_give_the_same(runs, monkeypatch):
    tracked, _, _ = runs
    weights = {STEPS: {0.05: 0.7, 0.1: 0.4}, 10: {0.05: -0.1}}
    with EmaSnapshotReader(experiment_of(tracked), tracked) as reader:
        whole = by_name(reader.combine(weights))
        monkeypatch.setattr(ema_snapshots, "CHUNK_BYTES", 20_000)
        leaves = jax.tree.leaves(reader.shapes)
        parts = list(ema_snapshots._parts(leaves))
        assert sum(parts, []) == list(range(len(leaves))) and len(parts) > 1
        for name, value in by_name(reader.combine(weights)).items():
            np.testing.assert_array_equal(value, whole[name], err_msg=name)


def test_half_lives_and_several_lengths_at_an_earlier_step(runs, run, tmp_path):
    tracked, _, _ = runs
    half_life = posthoc_ema.half_life_of(0.12, 16)
    code, out, err = run(
        *("ema", "--workdir", tracked, "--lengths", "0.05,0.08", "--step", 16),
        *("--half_life", half_life, "--out", tmp_path),
    )
    assert code == 0, err
    names = ["0.05-at-16", "0.08-at-16", "0.12-at-16"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert out.count("error of the profile") == 3
    made, step = average_in(tmp_path / "0.05-at-16", tracked)
    assert step == 16
    with EmaSnapshotReader(experiment_of(tracked), tracked) as reader:
        for name, value in by_name(reader.combine({16: {0.05: 1.0}})).items():
            np.testing.assert_allclose(made[name], value, rtol=1e-5, atol=1e-7)


def test_a_made_average_is_sampled(runs, run, tmp_path):
    tracked, _, _ = runs
    code, _, err = run("ema", "--workdir", tracked, "--length", 0.2)
    assert code == 0, err
    folder = tracked / "ema_profiles" / f"0.2-at-{STEPS}"
    more = {"made": ["--ema_profile", folder], "raw": ["--raw"]}
    for name, options in more.items():
        code, _, err = run(
            *("sample", "--workdir", tracked, "--prompt", "a red cross", *options),
            *("--out", tmp_path / name, "--format", "png"),
        )
        assert code == 0, err
    about = json.loads((tmp_path / "made" / "00000.json").read_text())
    assert (about["weights"], about["step"]) == (str(folder), STEPS)
    clips = [(tmp_path / name / "00000.png").read_bytes() for name in more]
    assert clips[0] != clips[1]


# --- Beforehand ----------------------------------------------------------------------


def test_a_dry_run_reports_the_disk(run, shapes_root):
    changes = [
        "optimizer.ema_snapshot_dtype=bfloat16",
        "optimizer.ema_snapshot_steps=5",
    ]
    config = config_of(shapes_root, TRACKED[0], *changes)
    report = dry_run(config)
    assert report["ema_snapshots"] == {
        "widths": [0.05, 0.1],
        "snapshots": 5,  # after 5, 10, 15, 20 and 24 steps
        "bytes_each": 2 * 2 * report["parameters"],
        "bytes": 5 * 2 * 2 * report["parameters"],
    }
    memory = report["state_bytes_per_device"]
    assert memory["powers"] == 2 * memory["params"]
    assert memory["total"] == sum(memory.values()) - memory["total"]
    code, out, _ = run(
        *("train", "--dry-run", "--config", TINY_CONFIG),
        *(f"--config.{each}" for each in (TRACKED[0], *changes)),
    )
    assert code == 0 and "EMA snapshots     3 of the widths 0.05, 0.1, " in out
    code, out, _ = run("train", "--dry-run", "--config", TINY_CONFIG)
    assert code == 0 and "powers" not in out and "EMA snapshots" not in out


def test_a_plan_reports_errors_for_configs_and_for_runs(runs, run):
    tracked, _, _ = runs
    code, out, err = run(
        *("ema", "--plan", "--config", TINY_CONFIG, "--json", "--length", DIRECT),
        *(f"--config.{each}" for each in (*TRACKED, f"optimizer.steps={STEPS}")),
    )
    assert code == 0, err
    coming = json.loads(out)
    there = json.loads(run("ema", "--plan", "--workdir", tracked, "--json")[1])
    assert coming["disk"] == there["disk"] and coming["step"] == STEPS
    (row,) = (row for row in there["lengths"] if row["length"] == DIRECT)
    assert coming["lengths"] == [pytest.approx(row)] and 1e-4 < row["error"] < 0.02
    assert there["bytes_there"] > 0.5 * there["disk"]["bytes"]
    code, out, _ = run("ema", "--plan", "--workdir", tracked)
    assert code == 0 and "MB of disk" in out and "on disk  " in out


def test_averages_are_planned_and_reconstructed_from_python(runs, tmp_path):
    tracked, _, _ = runs
    assert plan(EmaOptions(workdir=tracked))["step"] == STEPS
    options = EmaOptions(workdir=tracked, lengths=(0.05,), step=16, out=tmp_path)
    (about,) = reconstruct(options)
    assert (about["length"], about["step"]) == (0.05, 16)
    assert average_in(tmp_path / "0.05-at-16", tracked)[1] == 16
    with pytest.raises(ValueError, match="--workdir is missing"):
        reconstruct(EmaOptions(lengths=(0.05,)))


# --- Resuming ------------------------------------------------------------------------


def test_a_resumed_run_makes_the_snapshots_that_a_kill_took(runs, tracked, shapes_root):
    """Killed after the checkpoint of 16 was in place, but not the snapshot of it."""
    shutil.rmtree(tracked / "checkpoints" / str(STEPS))
    shutil.rmtree(tracked / "ema" / "16")
    with EmaSnapshotReader(experiment_of(runs[0]), runs[0]) as reader:
        expected = {s: by_name(reader.combine({s: {0.1: 1.0}})) for s in (16, 20, 24)}
    lines = RunFolder(tracked).ema_list.read_text().splitlines(keepends=True)
    others = [line for line in lines if json.loads(line)["step"] != 16]
    RunFolder(tracked).ema_list.write_text("".join(others))
    train.train(config_of(shapes_root, *TRACKED), tracked)
    with EmaSnapshotReader(experiment_of(tracked), tracked) as reader:
        every = list(range(EVERY, STEPS + 1, EVERY))
        assert reader.steps == reader.existing_steps() == every
        for step, values in expected.items():
            again = by_name(reader.combine({step: {0.1: 1.0}}))
            for name, value in values.items():
                np.testing.assert_array_equal(again[name], value, err_msg=name)


# --- Going wrong ---------------------------------------------------------------------


# Where one array cannot be read, Orbax forgets the tasks that read the others.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_snapshots_that_are_missing_or_damaged_are_named_and_left_out(tracked, run):
    shutil.rmtree(tracked / "ema" / "6")
    one = max(
        (tracked / "ema" / "12").rglob("d/*"), key=lambda path: path.stat().st_size
    )
    one.write_bytes(bytes([one.read_bytes()[0] ^ 1]) + one.read_bytes()[1:])
    for data in (tracked / "ema" / "18").rglob("d/*"):
        data.unlink()
    with EmaSnapshotReader(experiment_of(tracked), tracked) as reader:
        with pytest.raises(UnreadableSnapshot, match="snapshot of step 12 cannot be"):
            reader.combine({12: {0.1: 1.0}})
    code, out, err = run("ema", "--workdir", tracked, "--length", DIRECT, "--json")
    assert code == 0, err
    for named in ("missing and left out, of steps [6]", "of step 12", "of step 18"):
        assert named in err
    (about,) = json.loads(out)
    assert about["snapshots"] == STEPS // EVERY - 3
    whole = posthoc_ema.solve(
        [Average(w, s) for s in range(2, 25, 2) for w in (0.05, 0.1)],
        [Average(DIRECT, STEPS)],
    )[0]
    assert about["error"] > whole.error


@pytest.mark.parametrize(
    "arguments, parts",
    [
        (["--length", "0.004"], ["cannot give a length of 0.004", "Use 0.0", "0.2"]),
        (["--length", "0"], ["--length: 0.0 is not the width of"]),
        (["--length", "0.3"], ["0.3 is not the width of", "less than 0.2887"]),
        (["--half_life", "1000"], ["--half_life=1000 at step 24: 60."]),
        (["--length", "0.1", "--step", "5"], ["--step=5 has no", "[2, 4, 6, 8]"]),
        ([], ["No length is given; use --length"]),
        (["--length", "0.1", "--x=1"], ["Unknown argument '--x=1'"]),
        (
            ["--length", "0.1", "--config", TINY_CONFIG],
            ["Give --workdir, of a run, or"],
        ),
    ],
)
def test_bad_arguments_are_refused_in_one_line(runs, run, arguments, parts):
    code, out, err = run("ema", "--workdir", runs[0], *arguments)
    assert (code, out) == (2, ""), err
    assert err.startswith("snapvideo: error: ") and err.count("\n") == 1, err
    for part in parts:
        assert part in err


def test_without_snapshots_nothing_is_reconstructed(tracked, trained, run, tmp_path):
    shutil.rmtree(tracked / "ema")
    RunFolder(tracked).ema_list.unlink()
    for workdir, message in [
        (trained, "tracks no power-function averages; train with optimizer.ema_widths"),
        (tracked, "has no snapshot yet; the first is saved after step 2"),
        (tmp_path, "holds no run"),
    ]:
        code, _, err = run("ema", "--workdir", workdir, "--length", "0.1")
        assert code == 2 and message in err, err
    code, _, err = run("ema", "--config", TINY_CONFIG, "--length", "0.1")
    assert code == 2 and "--config can only be planned" in err
    code, _, err = run("ema", "--plan", "--config", TINY_CONFIG)
    assert code == 2 and "optimizer.ema_widths=() tracks nothing" in err
    code, _, err = run(
        *("sample", "--workdir", tracked, "--prompt", "a", "--out", tmp_path / "out"),
        *("--ema_profile", tmp_path),
    )
    assert code == 2 and "holds no average; snapvideo ema" in err


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            ["optimizer.ema_widths=(0.05,0.3)"],
            r"ema_widths=\(0.05, 0.3\): 0.3 is not the",
        ),
        (["optimizer.ema_widths=(0.0,)"], "0.0 is not the width of a power-function"),
        (["optimizer.ema_widths=(0.1,0.1)"], "has a width twice"),
        (["optimizer.ema_widths=(0.1,)"], "are useless without snapshots; set"),
        (
            [TRACKED[1], "optimizer.ema_snapshot_dtype=int8"],
            "ema_snapshot_dtype='int8' is unknown; use one of",
        ),
    ],
)
def test_contradictory_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        configs.build(tiny_config("nowhere", *changes))
