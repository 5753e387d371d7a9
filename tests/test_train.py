"""What a run leaves behind, and how it stops when it goes wrong."""

import io
import itertools
import json
import shutil
import struct

import flax.linen as nn
import jax
import numpy as np
import pytest
from helpers import (
    by_name,
    clips_folder,
    kept_steps,
    read_metrics,
    restore,
    tiny_config,
)
from PIL import Image
from tensorboardX.proto import event_pb2

from snapvideo_jax import config as configs
from snapvideo_jax import train
from snapvideo_jax.parallel.sharding import (
    MeshConfig,
    make_mesh,
    state_shardings,
    with_shardings,
)
from snapvideo_jax.sampling import loading
from snapvideo_jax.state import abstract_state
from snapvideo_jax.training.bad_steps import NonFiniteLoss
from snapvideo_jax.training.checkpoints.checkpoints import Checkpoints
from snapvideo_jax.training.run_folder import RunFolder

STEPS, BATCH = 12, 8


def read_board(workdir):
    """The values TensorBoard would show, as (tag, step, value)."""
    found = []
    for path in sorted((workdir / "tensorboard").iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = event_pb2.Event.FromString(data[12 : 12 + length])
            found += [(value.tag, event.step, value) for value in event.summary.value]
            data = data[16 + length :]
    return found


# --- What is left of a run -----------------------------------------------------------


def test_every_step_has_a_line_of_metrics(trained):
    lines = read_metrics(trained)
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    promised = {"loss", "grad_norm", "learning_rate", "clips_per_second"}
    promised |= {"seconds_per_step", "data_wait_share", "model_tflops_per_second"}
    for line in lines:
        assert promised <= set(line)
        assert np.isfinite(list(line.values())).all()
        assert 0 <= line["data_wait_share"] <= 1
        assert line["clips_per_second"] * line["seconds_per_step"] == pytest.approx(
            BATCH
        )


def test_the_loss_falls_and_the_rate_follows_its_schedule(trained):
    lines = read_metrics(trained)
    schedule = configs.build(saved_config(trained)).optimizer.schedule()
    for line in lines:
        assert line["learning_rate"] == pytest.approx(float(schedule(line["step"] - 1)))
    means = [
        np.mean([line["loss"] for line in part]) for part in (lines[:4], lines[8:])
    ]
    assert means[1] < means[0]


def saved_config(workdir):
    return configs.from_json((workdir / "config.json").read_text())


def test_losses_are_split_by_kind_and_noise_level(trained):
    names = {name for line in read_metrics(trained) for name in line}
    binned = {name for name in names if name.startswith("loss/")}
    edges = ["0", "0.02", "0.1", "0.5", "2.0", "inf"]
    possible = {
        f"loss/{kind}/sigma_{low}_to_{high}"
        for kind in ("video", "image")
        for low, high in itertools.pairwise(edges)
    }
    assert binned <= possible
    assert {name.split("/")[1] for name in binned} == {"video", "image"}


def test_mfu_is_measured_against_the_peak_of_all_devices(trained):
    for line in read_metrics(trained):
        share = line["model_tflops_per_second"] / (1.0 * jax.device_count())
        assert line["mfu"] == pytest.approx(share)


def test_tensorboard_shows_the_same_numbers(trained):
    shown = {
        (tag, step): value.simple_value
        for tag, step, value in read_board(trained)
        if value.HasField("simple_value")
    }
    for line in read_metrics(trained):
        for name in set(line) - {"step"}:
            assert shown[name, line["step"]] == pytest.approx(line[name])


def test_sheets_of_raw_and_averaged_weights_move(trained):
    names = {path.name for path in (trained / "sheets").iterdir()}
    stems = [f"{step:07d}-{kind}" for step in (6, 12) for kind in ("raw", "ema")]
    assert names == {f"{stem}.{kind}" for stem in stems for kind in ("gif", "png")}
    pictures = {}
    for stem in stems:
        with Image.open(trained / "sheets" / f"{stem}.gif") as sheet:
            assert (sheet.n_frames, sheet.format) == (2, "GIF")
            assert sheet.width >= 16 and sheet.height >= 2 * 14  # two clips
            pictures[stem] = sheet.convert("RGB").tobytes()
    assert len(set(pictures.values())) == 4


def test_sheets_are_shown_in_tensorboard(trained):
    shown = {
        (tag, step): value.image.encoded_image_string
        for tag, step, value in read_board(trained)
        if value.HasField("image")
    }
    assert set(shown) == {
        (f"samples/{kind}", step) for kind in ("raw", "ema") for step in (6, 12)
    }
    for data in shown.values():
        assert Image.open(io.BytesIO(data)).format == "GIF"


def test_the_newest_checkpoints_and_every_fourth_are_retained(trained):
    assert kept_steps(trained) == [4, 8, 10, 12]


def test_the_last_state_holds_the_whole_run(trained):
    state = restore(trained)
    assert state[".step"] == STEPS
    assert all(np.isfinite(leaf).all() for leaf in state.values())
    params = {name: leaf for name, leaf in state.items() if name.startswith(".params")}
    for name, leaf in params.items():
        average = state[name.replace(".params", ".ema", 1)]
        assert average.shape == leaf.shape
        assert (average != leaf).any(), name


def test_a_checkpoint_is_restored_onto_any_mesh(trained):
    experiment = configs.build(saved_config(trained))
    boxed = abstract_state(experiment)
    mesh = make_mesh(MeshConfig(data=2, fsdp=4), batch=8)
    places = state_shardings(boxed, mesh)
    like = with_shardings(nn.unbox(boxed), places)
    checkpoints = Checkpoints(trained)
    state = checkpoints.restore(like)
    checkpoints.close()
    shards = state.params["latents"].addressable_shards
    assert {shard.data.shape for shard in shards} == {(8 // 4, 16)}
    for name, leaf in restore(trained).items():
        np.testing.assert_array_equal(by_name(state)[name], leaf, err_msg=name)


def test_reading_a_run_leaves_what_it_is_writing_alone(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    half_written = tmp_path / "run" / "checkpoints" / "14.orbax-checkpoint-tmp"
    half_written.mkdir()
    *_, step, _ = loading.load(tmp_path / "run")
    assert step == STEPS and half_written.is_dir()
    assert kept_steps(tmp_path / "run") == [4, 8, 10, 12]
    # The run itself, started again, knows that nothing else writes there.
    train.train(saved_config(trained), tmp_path / "run")
    assert not half_written.exists()


def test_a_finished_run_that_is_started_again_changes_nothing(trained):
    def content():
        return {
            path.relative_to(trained): path.read_bytes()
            for path in trained.rglob("*")
            if path.is_file() and path.parent.name != "tensorboard"
        }

    before, board = content(), read_board(trained)
    train.train(saved_config(trained), trained)
    assert content() == before
    assert [item[:2] for item in read_board(trained)] == [item[:2] for item in board]


def test_a_workdir_of_another_config_is_left_alone(trained):
    config = saved_config(trained)
    before = (trained / "config.json").read_text()
    config.optimizer.learning_rate = 0.5
    with pytest.raises(ValueError, match=r"learning_rate=0.5 \(was 0.01\)"):
        train.train(config, trained)
    assert (trained / "config.json").read_text() == before


# --- Going wrong ---------------------------------------------------------------------


@pytest.mark.slow
def test_a_nan_loss_stops_the_run(shapes_root, tmp_path, monkeypatch):
    put_batch = train.put_batch

    def poisoned(batch, sharding):
        if batch["sample"].min() >= 4 * BATCH:  # from the fifth step on
            batch = batch | {"text_input": batch["text_input"] * np.nan}
        return put_batch(batch, sharding)

    config = tiny_config(shapes_root, "run.log_every_steps=4")
    with monkeypatch.context() as patch:
        patch.setattr(train, "put_batch", poisoned)
        with pytest.raises(NonFiniteLoss, match="loss of step 5 is nan.*lower"):
            train.train(config, tmp_path)
    assert kept_steps(tmp_path) == [2, 4]
    state = restore(tmp_path)
    assert state[".step"] == 4
    assert all(np.isfinite(leaf).all() for leaf in state.values())
    assert [line["step"] for line in read_metrics(tmp_path)] == [4]
    assert all("mfu" not in line for line in read_metrics(tmp_path))

    # The newest checkpoint is good: without the poison the run resumes from it.
    train.train(config, tmp_path)
    assert [line["step"] for line in read_metrics(tmp_path)] == [4, 8, 12]
    assert restore(tmp_path)[".step"] == STEPS


def test_files_that_cannot_be_used_are_listed_and_passed_over(tmp_path):
    bad = {"empty.mp4": b"", "text.mp4": b"not a film", "text.png": b"not a picture"}
    root = clips_folder(tmp_path / "clips", bad)
    config = tiny_config(root, "data.source=folder", "run.checkpoint_every_steps=100")
    train.train(config, tmp_path / "run")
    lines = (tmp_path / "run" / "skipped.jsonl").read_text().splitlines()
    skipped = {line["file"]: line["reason"] for line in map(json.loads, lines)}
    assert set(skipped) == set(bad) and len(lines) == len(bad)
    assert all(skipped.values())
    assert read_metrics(tmp_path / "run")[-1]["step"] == STEPS


def test_too_many_bad_files_end_the_run(tmp_path):
    root = clips_folder(tmp_path / "clips", {f"a{n}.mp4": b"" for n in range(12)})
    config = tiny_config(root, "data.source=folder")
    with pytest.raises(ValueError, match="of 20 videos cannot be used.*max_skipped_sh"):
        train.train(config, tmp_path / "run")


def test_a_workdir_that_processes_do_not_share_is_refused(tmp_path):
    folder = RunFolder(tmp_path, is_writer=False)
    message = "config.json, which process 0 wrote, does not exist for process"
    with pytest.raises(ValueError, match=message):
        train.save_config(tiny_config("nowhere"), folder, resumes=False)


def test_a_config_may_change_until_there_is_a_checkpoint(tmp_path):
    """A first try that failed, say for want of memory, does not cost the workdir."""
    root = clips_folder(tmp_path / "clips", {})
    workdir = tmp_path / "run"
    for frames in (13, 64):
        config = tiny_config(root, "data.source=folder", f"data.frames={frames}")
        with pytest.raises(ValueError, match=f"data.frames={frames} is more than any"):
            train.train(config, workdir)
    assert saved_config(workdir).data.frames == 64
