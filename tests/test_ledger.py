"""The ledger records the batch of every step, for any number of processes."""

import json
import math

import jax
import numpy as np
import pytest
from helpers import clips_folder, read_metrics, tiny_config

from snapvideo_jax import train
from snapvideo_jax.config.experiment import build
from snapvideo_jax.data import make_dataset, make_joint_source
from snapvideo_jax.training import ledger
from snapvideo_jax.training.ledger import (
    Ledger,
    batch_digest,
    read,
    sample_digests,
)
from snapvideo_jax.training.run_folder import RunFolder
from snapvideo_jax.types import RawBatch

BATCH, STEPS = 8, 12
METRICS = {"loss": np.float32(0.1), "grad_norm": np.float32(2)}


def batch_of(step, rows=range(BATCH), **changes):
    """A step's rows; every field of a sample is a function of its number."""
    numbers = (step - 1) * BATCH + np.array(rows)
    rng = np.random.default_rng(0)
    noise = rng.integers(256, size=(100 * BATCH, 2, 3, 4, 3), dtype=np.uint8)
    return {
        "video": noise[numbers],
        "frame_interval": np.float32(1 / (1 + numbers)),
        "resolution": np.stack([numbers, numbers + 1], 1).astype(np.float32),
        "text_input": np.cos(numbers[:, None, None] * np.ones((1, 2, 5), np.float32)),
        "text_mask": numbers[:, None] % np.array([2, 3]) == 0,
        "sample": numbers.astype(np.uint32),
    } | changes


def write(workdir, steps, first=0, rows=range(BATCH), keep=100_000, **changes):
    """Lines of some steps, by a process that has some rows."""
    written = Ledger(RunFolder(workdir).at(first), BATCH, keep)
    for step in steps:
        batch = batch_of(step, rows, **changes)
        moved = np.where(batch["sample"] % 5 == 0, 3, 0).astype(np.uint32)
        written.record(step, batch, moved, METRICS)
    written.flush()
    written.close()
    return workdir


# --- Digests -------------------------------------------------------------------------


@pytest.mark.parametrize("field", sorted(batch_of(1)))
def test_a_digest_is_of_every_field(field):
    batch = batch_of(3)
    changed = {name: np.array(value) for name, value in batch.items()}
    flat = changed[field][2:3].reshape(-1)
    flat[-1] = not flat[-1] if flat.dtype == bool else flat[-1] + 1
    before, after = sample_digests(batch), sample_digests(changed)
    assert np.flatnonzero(before != after).tolist() == [2]
    assert batch_digest(before) != batch_digest(after)


def test_a_digest_is_of_a_sample_alone():
    whole = sample_digests(batch_of(3))
    part = sample_digests(batch_of(3, rows=[6, 1]))
    assert part.tolist() == [whole[6], whole[1]]


def test_equal_clips_have_digests_of_their_own():
    batch = {"video": np.zeros((4, 1, 2, 2, 3), np.uint8), "sample": np.arange(4)}
    assert len(set(sample_digests(batch).tolist())) == 4


# --- Lines ---------------------------------------------------------------------------


def test_what_is_written_is_read(tmp_path):
    entries = list(read(write(tmp_path, range(1, 4))))
    assert [entry.step for entry in entries] == [1, 2, 3]
    for entry in entries:
        digests = sample_digests(batch_of(entry.step)).tolist()
        assert entry.samples == dict(enumerate(digests))
        assert entry.loss == np.float32(0.1) and entry.grad_norm == 2
        first = (entry.step - 1) * BATCH
        assert entry.moved == {r: 3 for r in range(BATCH) if (first + r) % 5 == 0}


@pytest.mark.parametrize("processes", [2, 4])
def test_any_number_of_processes_writes_the_same_digests(
    tmp_path, monkeypatch, processes
):
    alone = list(read(write(tmp_path / "one", range(1, 4))))
    monkeypatch.setattr(jax, "process_count", lambda: processes)
    for index in range(processes):
        monkeypatch.setattr(jax, "process_index", lambda index=index: index)
        # Rows may lie anywhere: those of a mesh need not be neighbours.
        write(tmp_path / "many", range(1, 4), rows=range(index, BATCH, processes))
    together = list(read(tmp_path / "many"))
    assert together == alone
    assert [x.digest for x in together] == [x.digest for x in alone]


def test_a_loss_that_is_no_number_is_null(tmp_path, monkeypatch):
    monkeypatch.setitem(METRICS, "loss", np.float32(np.nan))
    write(tmp_path, [1])
    (path,) = (tmp_path / "ledger").iterdir()
    assert json.loads(path.read_text())["loss"] is None
    entry = next(read(tmp_path, 1, 1))
    assert math.isnan(entry.loss) and entry.grad_norm == 2


def test_a_line_takes_the_documented_bytes():
    """5.4 bytes a row and 130 more, whatever the step."""
    for rows in (64, 4096):
        line = ledger.format_entry(
            123456, list(range(rows)), np.arange(rows, dtype=np.uint32), {}, METRICS
        )
        assert len(line) <= 5.4 * rows + 140


def test_old_files_are_removed_and_new_ones_started(tmp_path, monkeypatch):
    monkeypatch.setattr(ledger, "STEPS_PER_FILE", 4)
    write(tmp_path, range(1, 15), keep=5)
    names = sorted(path.name for path in (tmp_path / "ledger").iterdir())
    assert names == ["00000005.jsonl", "00000009.jsonl", "00000013.jsonl"]
    assert [x.step for x in read(tmp_path)] == list(range(5, 15))
    assert [x.step for x in read(tmp_path, 7, 9)] == [7, 8, 9]
    assert not [*read(tmp_path, 4, 4), *read(tmp_path, 15, 15)]


def test_zero_steps_disable_the_ledger(tmp_path):
    write(tmp_path, range(1, 4), keep=0)
    assert not (tmp_path / "ledger").exists() and list(read(tmp_path)) == []


def test_a_resumed_run_removes_lines_past_its_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(ledger, "STEPS_PER_FILE", 4)
    write(tmp_path / "whole", range(1, 11))
    write(tmp_path / "again", range(1, 10))
    with (tmp_path / "again/ledger/00000009.jsonl").open("a") as file:
        file.write('{"step": 10, "lo')  # killed while it was writing
    assert [x.step for x in read(tmp_path / "again")] == list(range(1, 10))
    write(tmp_path / "again", range(7, 11), first=6)
    for path in (tmp_path / "whole" / "ledger").iterdir():
        assert (tmp_path / "again/ledger" / path.name).read_text() == path.read_text()


def test_fewer_processes_take_back_lines_of_those_that_are_gone(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(jax, "process_count", lambda: 2)
        for index in range(2):
            patch.setattr(jax, "process_index", lambda index=index: index)
            write(tmp_path, range(1, 6), rows=range(4 * index, 4 * index + 4))
    write(tmp_path, range(4, 7), first=3)
    assert [x.digest for x in read(tmp_path)] == [
        batch_digest(sample_digests(batch_of(step))) for step in range(1, 7)
    ]


def test_a_ledger_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "ledger").write_text("in the way")
    with pytest.raises(OSError, match="ledger"):
        write(tmp_path, [1])


# --- Of a run ------------------------------------------------------------------------


def test_every_step_of_a_run_has_a_line(trained):
    metrics = {line["step"]: line for line in read_metrics(trained)}
    entries = list(read(trained))
    assert [entry.step for entry in entries] == list(range(1, STEPS + 1))
    for entry in entries:
        assert entry.loss == metrics[entry.step]["loss"]
        assert entry.grad_norm == metrics[entry.step]["grad_norm"]
        assert sorted(entry.samples) == list(range(BATCH)) and not entry.moved


def test_the_digest_is_of_the_batch_of_the_step(trained, shapes_root):
    experiment = build(tiny_config(shapes_root))
    dataset = make_dataset(experiment.data, experiment.seed, 0, 1, experiment.text)
    iterator = iter(dataset)
    for entry in read(trained):
        batch, moved = next(iterator)
        assert set(batch) == set(RawBatch.__annotations__) and not moved.any()
        assert batch_digest(sample_digests(batch)) == entry.digest
    iterator.close()


def test_replaced_files_are_recorded(tmp_path):
    root = clips_folder(tmp_path / "clips", {"empty.mp4": b"", "text.png": b"no"})
    config = tiny_config(root, "data.source=folder", "optimizer.steps=4")
    train.train(config, tmp_path / "run")
    experiment = build(config)
    joint = make_joint_source(experiment.data, experiment.seed)
    moved = {}
    for entry in read(tmp_path / "run"):
        moved |= {(entry.step - 1) * BATCH + r: n for r, n in entry.moved.items()}
    asked = {
        number
        for number in range(4 * BATCH)
        if joint.read(number).name in ("empty.mp4", "text.png")
    }
    assert asked and set(moved) == asked and set(moved.values()) == {1}
