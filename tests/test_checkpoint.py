"""Checkpoints are intact or moved away, and errors name what went wrong."""

import contextlib
import json
import re
import resource
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import by_name, kept_steps

from snapvideo_jax.io.errors import SaveFailed
from snapvideo_jax.state import TrainState
from snapvideo_jax.training.checkpoints import folder as tier
from snapvideo_jax.training.checkpoints import integrity
from snapvideo_jax.training.checkpoints.checkpoints import Checkpoints
from snapvideo_jax.training.run_folder import RunFolder

SIZE = 50_000
"""Numbers in each of the four parts of a state, of 4 bytes."""


def state_of(step):
    """A state that differs for every step."""
    keys = jax.random.split(jax.random.key(step), 3)
    params, opt_state, ema = ({"w": jax.random.normal(key, (SIZE,))} for key in keys)
    return TrainState(jnp.asarray(step), params, {"mu": opt_state}, ema)


@pytest.fixture
def like():
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        state_of(0),
    )


def save(workdir, *steps, **more):
    checkpoints = Checkpoints(workdir, every_steps=1, keep=3, **more)
    for step in steps:
        checkpoints.save(step, state_of(step), {"next": step})
    checkpoints.close()


def check_restores(workdir, like, step, **more):
    """Checks that what is restored is the state of a step, bit by bit."""
    checkpoints = Checkpoints(workdir, **more)
    assert checkpoints.latest == step
    ours, theirs = by_name(checkpoints.restore(like)), by_name(state_of(step))
    checkpoints.close()
    for name, leaf in theirs.items():
        np.testing.assert_array_equal(ours[name], leaf, err_msg=name)


def largest(folder):
    return max(folder.rglob("*"), key=lambda path: path.stat().st_size)


# --- Damage --------------------------------------------------------------------------


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "truncated": (largest, truncate, "has [0-9]+ bytes in place of [0-9]+"),
    "missing": (largest, lambda path: path.unlink(), "is missing"),
    "flipped": (largest, flip, "has other bytes than were written"),
    "metadata": (
        lambda folder: folder / integrity.COMMITTED,
        lambda path: path.write_text("{"),
        "has 1 bytes in place of",
    ),
    "list": (
        lambda folder: folder / "manifest_0000.json",
        truncate,
        "manifest_0000.json is damaged",
    ),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    kind, like, tmp_path, caplog
):
    find, damage, message = DAMAGES[kind]
    save(tmp_path, 1, 2, 3)
    path = find(tmp_path / "checkpoints" / "3")
    damage(path)
    # A reader leaves it where it is, as a run may be writing there.
    check_restores(tmp_path, like, 2)
    assert kept_steps(tmp_path) == [1, 2, 3]
    # The run itself moves it away.
    caplog.clear()
    check_restores(tmp_path, like, 2, every_steps=1)
    ours = [each for each in caplog.records if each.name.startswith("snapvideo_jax")]
    logged = "\n".join(record.getMessage() for record in ours)
    assert f"The checkpoint of step 3 is damaged: {path}" in logged
    assert re.search(message, logged), logged
    assert "Using the checkpoint of step 2 instead" in logged
    assert {record.levelname for record in ours} == {"ERROR"}
    assert kept_steps(tmp_path) == [1, 2]
    assert (tmp_path / "damaged" / "3").is_dir()


def test_without_an_intact_checkpoint_a_run_is_refused(tmp_path):
    save(tmp_path, 1, 2)
    for step in (1, 2):
        truncate(largest(tmp_path / "checkpoints" / str(step)))
    with pytest.raises(
        ValueError, match="has no intact checkpoint: .*/2/.* bytes in place of"
    ):
        Checkpoints(tmp_path, every_steps=1)
    assert {path.name for path in (tmp_path / "damaged").iterdir()} == {"1", "2"}


def test_a_step_can_be_moved_away_twice(like, tmp_path):
    save(tmp_path, 1)
    for _ in range(2):
        save(tmp_path, 2)
        flip(largest(tmp_path / "checkpoints" / "2"))
        check_restores(tmp_path, like, 1, every_steps=1)
    assert {path.name for path in (tmp_path / "damaged").iterdir()} == {"2", "2-1"}


def test_a_checkpoint_without_a_manifest_is_read_through(like, tmp_path):
    """A run that is killed right after the rename leaves it without a list."""
    save(tmp_path, 1, 2)
    newest = tmp_path / "checkpoints" / "2"
    (newest / "manifest_0000.json").unlink()
    check_restores(tmp_path, like, 2, every_steps=1)
    assert integrity.has_manifest(newest), "now it has a manifest"
    (newest / "manifest_0000.json").unlink()
    path = largest(newest)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    check_restores(tmp_path, like, 1, every_steps=1)


def test_processes_share_the_lists_and_the_checks(tmp_path):
    save(tmp_path, 1)
    folder = tmp_path / "checkpoints" / "1"
    whole = dict(integrity.read_manifest(folder))
    (folder / "manifest_0000.json").unlink()
    for index in range(3):
        assert integrity.read_manifest(folder) is None
        integrity.write_manifest(folder, index, 3)
    assert dict(integrity.read_manifest(folder)) == whole
    assert [integrity.find_damage(folder, index, 2) for index in range(2)] == ["", ""]
    flip(largest(folder))
    found = [integrity.find_damage(folder, index, 2) for index in range(2)]
    assert sorted(map(bool, found)) == [False, True]


def test_the_ema_alone_is_restored_from_the_newest_intact_one(like, tmp_path):
    save(tmp_path, 1, 2)
    flip(largest(tmp_path / "checkpoints" / "2"))
    ema, step = Checkpoints(tmp_path).restore_params(like, ema=True)
    assert step == 1
    np.testing.assert_array_equal(ema["w"], state_of(1).ema["w"])


def test_a_requested_step_is_verified_too(like, tmp_path):
    save(tmp_path, 1, 2)
    *_, step = Checkpoints(tmp_path).restore_params(like, ema=False, step=1)
    assert step == 1
    flip(largest(tmp_path / "checkpoints" / "1"))
    with pytest.raises(ValueError, match="of step 1 is damaged: .* has other bytes"):
        Checkpoints(tmp_path).restore_params(like, ema=False, step=1)


# --- A full disk ---------------------------------------------------------------------


@contextlib.contextmanager
def files_of_at_most(size):
    """The kernel refuses to let any file grow larger."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_keeps_the_last_checkpoint_and_names_the_need(like, tmp_path):
    checkpoints = Checkpoints(tmp_path, every_steps=1)
    checkpoints.save(1, state_of(1), {})
    checkpoints.wait()
    with files_of_at_most(100_000), pytest.raises(SaveFailed) as caught:
        checkpoints.save(2, state_of(2), {})
        checkpoints.wait()
    text = str(caught.value)
    assert text.startswith(
        "The checkpoint of step 2 could not be saved: the disk is full"
    )
    assert "it needs 0.6 MB" in text and f"{tmp_path}/checkpoints has " in text
    assert "the checkpoint of step 1 remains" in text
    assert caught.value.exit_code == 4
    checkpoints.close()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["1"]
    check_restores(tmp_path, like, 1, every_steps=1)


def test_a_failed_save_is_reported_at_the_next_step(tmp_path):
    """And not where the next checkpoint is due, hundreds of steps later."""
    checkpoints = Checkpoints(tmp_path, every_steps=100)
    with files_of_at_most(100_000):
        checkpoints.save(100, state_of(100), {})
        checkpoints._durable._saving.join()
    with pytest.raises(SaveFailed, match="of step 100 could not.*no earlier checkp"):
        checkpoints.check_saves()
    checkpoints.check_saves()  # once is enough
    checkpoints.close()


def test_free_space_is_checked_before_anything_runs(tmp_path, monkeypatch, caplog):
    checkpoints = Checkpoints(tmp_path, every_steps=1, keep=2)
    size = tier.state_bytes(state_of(1))
    free = size - 1

    def usage(_):
        return shutil._ntuple_diskusage(10 * size, 0, free)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    with pytest.raises(
        ValueError, match=r"--workdir: .* free, and 3 checkpoints of 0.6 MB need 1.8 MB"
    ):
        checkpoints.check_room(state_of(1))
    free = 2 * size
    checkpoints.check_room(state_of(1))
    assert "the disk will be full before the run ends" in caplog.text
    caplog.clear()
    free = 3 * size
    checkpoints.check_room(state_of(1))
    assert not caplog.records
    checkpoints.close()


def test_a_folder_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path, every_steps=1)

    def refused(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tier.tempfile, "NamedTemporaryFile", refused)
    with pytest.raises(ValueError, match="cannot be written to .*Permission denied"):
        checkpoints.check_room(state_of(1))
    checkpoints.close()


# --- Two tiers -----------------------------------------------------------------------


def test_the_newest_checkpoint_of_either_tier_is_used(like, tmp_path):
    workdir = tmp_path / "run"
    local = dict(local=str(tmp_path / "fast"), local_every_steps=1)
    checkpoints = Checkpoints(workdir, every_steps=3, keep=3, **local)
    for step in range(1, 6):
        assert checkpoints.due(step)
        checkpoints.save(step, state_of(step), {})
    checkpoints.close()
    fast = next((tmp_path / "fast").iterdir())
    assert kept_steps(workdir) == [3] and kept_steps(fast) == [5]
    check_restores(workdir, like, 5, every_steps=3, **local)
    flip(largest(fast / "checkpoints" / "5"))
    check_restores(workdir, like, 3, every_steps=3, **local)
    # Preempted, a run saves where the end of the machine does not reach.
    checkpoints = Checkpoints(workdir, every_steps=3, keep=3, **local)
    checkpoints.save(4, state_of(4), {}, force=True)
    checkpoints.close()
    assert kept_steps(workdir) == [3, 4] and kept_steps(fast) == []


def test_a_new_workdir_does_not_find_an_old_local_tier(tmp_path):
    local = dict(local=str(tmp_path / "fast"), local_every_steps=1)
    checkpoints = Checkpoints(tmp_path / "run", every_steps=3, **local)
    checkpoints.save(1, state_of(1), {})
    checkpoints.close()
    shutil.rmtree(tmp_path / "run")
    checkpoints = Checkpoints(tmp_path / "run", every_steps=3, **local)
    assert checkpoints.latest is None
    checkpoints.close()
    assert len(list((tmp_path / "fast").iterdir())) == 2


def test_manifests_record_how_many_processes_wrote_them(tmp_path):
    save(tmp_path, 1)
    content = json.loads((tmp_path / "checkpoints/1/manifest_0000.json").read_text())
    assert content["count"] == 1 and integrity.COMMITTED in content["files"]


def test_asking_for_the_newest_step_reads_no_checkpoint(tmp_path):
    folder = RunFolder(tmp_path)
    assert folder.latest_step() is None
    save(tmp_path, 1, 2)
    for path in (tmp_path / "checkpoints" / "2").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    assert folder.latest_step() == 2 and folder.checkpoint_steps() == [1, 2]
