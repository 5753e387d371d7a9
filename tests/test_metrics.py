"""The record of a run is readable, complete, and the same after a resume."""

import io
import json
import logging
import struct
import sys

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto import event_pb2

from snapvideo_jax.io.progress import progress
from snapvideo_jax.training import metrics
from snapvideo_jax.training.metrics import MetricWriter
from snapvideo_jax.training.run_folder import RunFolder


def read_lines(workdir):
    return [json.loads(x) for x in (workdir / "metrics.jsonl").read_text().splitlines()]


def read_events(workdir):
    """All events TensorBoard would read, in the order of their files."""
    events = []
    for path in sorted((workdir / "tensorboard").iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            events.append(event_pb2.Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return events


def test_scalars_are_one_line_per_write(tmp_path):
    with MetricWriter(RunFolder(tmp_path)) as writer:
        writer.write(10, {"loss": np.float32(0.5), "train/rate": np.array(2)})
        writer.write(20, {"loss": 0.25})
    assert read_lines(tmp_path) == [
        {"step": 10, "loss": 0.5, "train/rate": 2.0},
        {"step": 20, "loss": 0.25},
    ]


def test_a_line_is_on_disk_as_soon_as_it_is_written(tmp_path):
    with MetricWriter(RunFolder(tmp_path)) as writer:
        writer.write(1, {"loss": 1})
        assert read_lines(tmp_path) == [{"step": 1, "loss": 1.0}]


def test_scalars_that_json_cannot_hold_are_null_and_named(tmp_path):
    with MetricWriter(RunFolder(tmp_path)) as writer:
        writer.write(1, {"a": float("nan"), "b": 1.0, "c": float("inf")})
    line = {"step": 1, "a": None, "b": 1.0, "c": None, "nonfinite": ["a", "c"]}
    assert read_lines(tmp_path) == [line]


def test_scalars_reach_tensorboard(tmp_path):
    with MetricWriter(RunFolder(tmp_path)) as writer:
        writer.write(7, {"loss": 0.5})
    found = [
        (e.step, v.tag, v.simple_value)
        for e in read_events(tmp_path)
        for v in e.summary.value
    ]
    assert found == [(7, "loss", 0.5)]


def test_a_clip_reaches_tensorboard_as_a_moving_gif(tmp_path):
    frames = np.zeros((4, 6, 8, 3), np.uint8)
    frames += np.arange(0, 200, 50, dtype=np.uint8)[:, None, None, None]
    with MetricWriter(RunFolder(tmp_path)) as writer:
        writer.write_video(3, "samples", frames, 8)
        writer.write_text(3, "captions", "a red circle")
    values = [v for e in read_events(tmp_path) for v in e.summary.value]
    (image,) = [v.image for v in values if v.tag == "samples"]
    assert (image.height, image.width) == (6, 8)
    with Image.open(io.BytesIO(image.encoded_image_string)) as gif:
        assert gif.format == "GIF" and gif.n_frames == 4
    assert any(v.tensor.string_val == [b"a red circle"] for v in values)


def test_a_resumed_run_removes_later_steps_only(tmp_path):
    with MetricWriter(RunFolder(tmp_path).at(0)) as writer:
        for step in (10, 20, 30):
            writer.write(step, {"loss": step})
    with MetricWriter(RunFolder(tmp_path).at(20)) as writer:
        writer.write(30, {"loss": -1})
    assert read_lines(tmp_path) == [
        {"step": 10, "loss": 10.0},
        {"step": 20, "loss": 20.0},
        {"step": 30, "loss": -1.0},
    ]
    starts = [e.step for e in read_events(tmp_path) if e.HasField("session_log")]
    assert 21 in starts  # TensorBoard hides what older files hold from there on.


def test_a_fresh_start_in_an_old_folder_removes_all_steps(tmp_path):
    for _ in range(2):
        with MetricWriter(RunFolder(tmp_path).at(0)) as writer:
            writer.write(10, {"loss": 1})
    assert len(read_lines(tmp_path)) == 1


def test_a_command_that_adds_to_a_run_keeps_its_lines(tmp_path):
    for step in (20, 10):
        with MetricWriter(RunFolder(tmp_path)) as writer:
            writer.write(step, {"loss": 1})
    assert [line["step"] for line in read_lines(tmp_path)] == [20, 10]


def test_a_line_broken_by_a_crash_is_removed(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n{"step": 2, "lo')
    with MetricWriter(RunFolder(tmp_path).at(5)) as writer:
        writer.write(3, {"loss": 2})
    assert [line["step"] for line in read_lines(tmp_path)] == [1, 3]


def test_only_the_writing_process_writes(tmp_path):
    with MetricWriter(RunFolder(tmp_path / "run", is_writer=False).at(0)) as writer:
        writer.write(1, {"loss": 1})
        writer.write_video(1, "samples", np.zeros((1, 2, 2, 3), np.uint8), 8)
        writer.write_text(1, "captions", "text")
    assert not (tmp_path / "run").exists()


def test_names_of_the_format_itself_are_refused(tmp_path):
    with (
        MetricWriter(RunFolder(tmp_path)) as writer,
        pytest.raises(ValueError, match="'step', which metrics.jsonl uses"),
    ):
        writer.write(1, {"step": 1})


def test_progress_yields_the_items_and_logs_where_there_is_no_terminal(
    caplog, monkeypatch
):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with caplog.at_level(logging.INFO):
        items = list(progress(range(6, 10), 10, initial=6, interval_seconds=1000))
    assert items == [6, 7, 8, 9]
    assert "step 10/10 (100 %)" in caplog.text
    assert caplog.text.count("left") == 1


def test_progress_logs_the_time_left(caplog, monkeypatch):
    clock = iter([0.0, 1.0, 60.0, 61.0])
    monkeypatch.setattr(metrics.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    items = progress(iter(range(3)), 122, interval_seconds=30)
    with caplog.at_level(logging.INFO):
        assert list(items) == [0, 1, 2]
    assert "step 2/122 (1 %), 0.0333/s, 60.0 min left" in caplog.text


def test_progress_is_a_bar_on_a_terminal(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    assert list(progress(range(3), 3, name="sample")) == [0, 1, 2]
    assert "sample" in terminal.getvalue() and "3/3" in terminal.getvalue()


def test_progress_of_other_processes_is_silent(capsys, caplog):
    with caplog.at_level(logging.INFO):
        assert list(progress(range(3), 3, is_writer=False)) == [0, 1, 2]
    assert capsys.readouterr().err == "" and caplog.text == ""
