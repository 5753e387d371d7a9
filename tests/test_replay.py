"""A replayed step equals the recorded one, and shows each sample."""

import contextlib
import json
import math
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import clips_folder, tiny_config
from PIL import Image

from snapvideo_jax import train
from snapvideo_jax.data.records import encode_mp4
from snapvideo_jax.diffusion.noise import fold_in, sample_keys
from snapvideo_jax.step import LABEL, SIGMA, StepKeys, sample_losses
from snapvideo_jax.text.cache import begin_cache, key_of, write_shard
from snapvideo_jax.training import ledger
from snapvideo_jax.training.bad_steps import NonFiniteLoss
from snapvideo_jax.training.replay import ReplayOptions, rebuild
from snapvideo_jax.training.replay.rebuild import agreement
from snapvideo_jax.training.replay.samples import row_losses, view_samples

pytestmark = pytest.mark.slow

BATCH = 8
FOLDER = ("data.source=folder", "optimizer.steps=4", "model.dropout=0.0")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder of clips, one of which cannot be used."""
    bad = {"5a.mp4": b"not a film"}
    return clips_folder(tmp_path_factory.mktemp("replay") / "clips", bad)


@pytest.fixture(scope="module")
def run_of_files(root):
    """A run of 4 steps on them, in two microbatches, without dropout."""
    workdir = root.parent / "run"
    more = "training.self_conditioning_period=4", "training.microbatches=2"
    train.train(tiny_config(root, *FOLDER, *more), workdir)
    return workdir


def poison(folder, captions):
    """Embeddings of captions, as of T5; that of "3" is NaN."""
    begin_cache(folder, {"encoder": "t5", "fingerprint": "0", "tokens": 4, "width": 8})
    made = [np.full((2, 8), np.nan if x == "3" else 0.1, np.float32) for x in captions]
    write_shard(folder / "text-00000.array_record", [*map(key_of, captions)], made)
    return folder


# --- The step that was ---------------------------------------------------------------


@pytest.mark.parametrize(
    "step, begun_at, again", [(11, 10, 0), (10, 8, 1), (3, 0, 2), (1, 0, 0)]
)
def test_a_step_has_the_recorded_loss_bit_by_bit(
    trained, tmp_path, step, begun_at, again
):
    """The run has checkpoints 4, 8, 10 and 12."""
    rebuilt = rebuild(ReplayOptions(workdir=trained, step=step, out=tmp_path))
    assert (rebuilt.begun_at, rebuilt.rerun) == (begun_at, again)
    assert not rebuilt.approximate and int(rebuilt.state.step) == step - 1
    recorded = next(ledger.read(trained, step, step))
    assert rebuilt.digest == recorded.digest and rebuilt.differences() == []
    assert rebuilt.loss_and_norm() == (recorded.loss, recorded.grad_norm)


def test_an_approximation_does_nothing_again_and_says_so(trained, tmp_path, run):
    options = "--workdir", trained, "--step", 10, "--out", tmp_path
    code, out, _ = run("replay", *options, "--from_checkpoint")
    assert code == 0 and "step 8, as an approximation" in out
    report = json.loads((tmp_path / "replay.json").read_text())
    assert report["approximate"] and report["steps_done_again"] == 0
    assert report["agreement"] == {"digest": "equal"}
    assert report["loss"]["replayed"] != report["loss"]["recorded"]


def test_numbers_agree_or_not():
    assert agreement(0.5, 0.5) == agreement(math.nan, math.inf) == "equal"
    assert agreement(0.5, 0.50001) == "within 0.0001"
    assert agreement(0.5, 0.51) == agreement(0.5, math.nan) == "different"


# --- Its samples ---------------------------------------------------------------------


def test_losses_of_samples_are_in_order_and_make_the_loss(run_of_files, tmp_path):
    rebuilt = rebuild(ReplayOptions(workdir=run_of_files, step=3, out=tmp_path))
    found, sigma = row_losses(rebuilt)
    keys = sample_keys(rebuilt.key, rebuilt.batch["sample"])
    expected = rebuilt.experiment.diffusion.training_sigma(fold_in(keys, SIGMA))
    np.testing.assert_allclose(sigma, expected, rtol=1e-6)
    loss, _ = rebuilt.loss_and_norm()
    assert found.mean() == pytest.approx(loss, rel=1e-5) and len(set(found)) == BATCH


def test_gradients_of_samples_are_those_within_the_batch(run_of_files, tmp_path):
    rebuilt = rebuild(ReplayOptions(workdir=run_of_files, step=3, out=tmp_path))
    experiment, params = rebuilt.experiment, rebuilt.state.params

    @jax.jit
    def norm(params, row):
        def loss(params):
            found, *_ = sample_losses(
                params,
                rebuilt.batch,
                StepKeys(rebuilt.key, rebuilt.key),
                model=experiment.model,
                edm=experiment.diffusion,
                training=experiment.training,
            )
            return found[row]

        return optax.tree.norm(jax.grad(loss)(params))

    # Rows 0 and 5 are self-conditioned, row 7 is an image.
    for row, look in zip((0, 5, 7), view_samples(rebuilt, (0, 5, 7)), strict=True):
        assert look.grad_norm == pytest.approx(float(norm(params, row)), rel=1e-4)
        np.testing.assert_array_equal(look.clip, rebuilt.rows["video"][row])
        assert look.noisy.shape == look.denoised.shape == look.clip.shape


def test_a_sheet_shows_the_requested_samples(trained, tmp_path, run):
    options = "--workdir", trained, "--step", 11, "--out", tmp_path
    code, out, _ = run("replay", *options, "--samples", "2,7", "--json")
    report = json.loads(out)
    assert code == 0 and report == json.loads((tmp_path / "replay.json").read_text())
    assert [one["row"] for one in report["samples"]] == [2, 7]
    assert [one["sample"] for one in report["samples"]] == [82, 87]
    assert len(report["losses"]) == BATCH and report["nonfinite_rows"] == []
    assert set(report["agreement"].values()) == {"equal"}
    for one in report["samples"]:
        assert one["caption"] and one["file"] and one["grad_norm"] > 0
        assert one["loss"] == report["losses"][one["row"]]
    with Image.open(tmp_path / "sheet.gif") as sheet:
        assert sheet.n_frames == 2 and sheet.width >= 3 * 16


# --- Differences ---------------------------------------------------------------------


def test_a_file_that_has_changed_is_named(root, run_of_files, tmp_path, run):
    shutil.copytree(root, tmp_path / "clips")
    other = np.full((12, 16, 16, 3), 200, np.uint8)
    (tmp_path / "clips" / "3.mp4").write_bytes(encode_mp4(other, fps=12))
    changed = f"--config.data.root={tmp_path / 'clips'}"
    options = (
        "--workdir",
        run_of_files,
        "--step",
        3,
        "--out",
        tmp_path / "out",
        "--json",
    )
    code, out, _ = run("replay", *options, changed)
    report = json.loads(out)
    assert code == 1 and report["agreement"] == {"digest": "different"}
    found = {each["row"]: each["file"] for each in report["differences"]}
    rebuilt = rebuild(ReplayOptions(workdir=run_of_files, step=3, out=tmp_path / "out"))
    numbers = rebuilt.rows["sample"].tolist()
    files = [rebuilt.joint.sample_caption(number)[0] for number in numbers]
    expected = {row: "3.mp4" for row, file in enumerate(files) if file == "3.mp4"}
    assert expected and found == expected
    assert "its file, its caption" in report["differences"][0]["reason"]


def test_a_repaired_file_is_reported(root, run_of_files, tmp_path):
    shutil.copytree(root, tmp_path / "clips")
    shutil.copy(root / "0.mp4", tmp_path / "clips" / "5a.mp4")
    changed = [f"--config.data.root={tmp_path / 'clips'}"]
    entry = next(each for each in ledger.read(run_of_files) if each.moved)
    out = tmp_path / "out"
    differences = rebuild(
        ReplayOptions(workdir=run_of_files, step=entry.step, out=out, overrides=changed)
    ).differences()
    assert [each.row for each in differences] == sorted(entry.moved)
    assert {each.file for each in differences} == {"5a.mp4"}
    assert "the file 1 places after its first choice" in differences[0].reason


def test_the_sample_with_a_nan_loss_is_shown(root, tmp_path, run):
    captions = [path.stem for path in root.iterdir() if path.suffix != ".jsonl"]
    cache = poison(tmp_path / "text", captions)
    config = tiny_config(root, *FOLDER, "text.name=cached", f"text.path={cache}")
    with contextlib.suppress(NonFiniteLoss):
        train.train(config, tmp_path / "run")
    bad = next(x for x in ledger.read(tmp_path / "run") if math.isnan(x.loss))
    out = tmp_path / "out"
    code, text, _ = run(
        *("replay", "--workdir", tmp_path / "run", "--step", bad.step, "--out", out)
    )
    report = json.loads((out / "replay.json").read_text())
    assert report["agreement"]["loss"] == "equal" and report["loss"]["replayed"] is None
    numbers = [one["sample"] for one in report["samples"]]
    keys = sample_keys(jax.random.key(0), jnp.asarray(numbers, jnp.uint32))
    dropped = jax.vmap(jax.random.uniform)(fold_in(keys, LABEL)) < 0.1
    for one, lost in zip(report["samples"], dropped, strict=True):
        assert one["finite"] == (one["caption"] != "3" or bool(lost)), one
    shown = [one for one in report["samples"] if not one["finite"]]
    assert shown and shown[0]["loss"] is None and shown[0]["file"] == "3.mp4"
    assert report["nonfinite_rows"] == [one["row"] for one in shown]
    assert f"not finite: row {shown[0]['row']} (sample " in text and code == 0


@pytest.mark.parametrize(
    "options, message",
    [
        (("--step", 13), "--step=13 is not a step of the run; use 1 to 12"),
        (("--step", 0), "argument --step: 0 is too small; use 1 or more"),
        (("--step", 1, "--samples", "1,8"), "--samples=8 is not in the batch; use 0"),
        (("--step", 1, "--config.seed=1"), r"seed=1 \(was 0\)"),
    ],
)
def test_what_cannot_be_replayed_is_refused(trained, tmp_path, run, options, message):
    code, _, errors = run("replay", "--workdir", trained, "--out", tmp_path, *options)
    assert code == 2 and errors.startswith("snapvideo: error: ")
    assert re.search(message, errors)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no run: config.json is missing"):
        rebuild(ReplayOptions(workdir=tmp_path, step=1, out=tmp_path / "out"))
