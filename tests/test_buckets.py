"""Batches of several sizes, each of one, and a FIT that trains on them."""

import collections
import hashlib
import itertools
import shutil

import numpy as np
import pytest
import tiny
from helpers import TINY_CONFIG, read_metrics, restore
from mixing import (
    ENCODER,
    TALL,
    WIDE,
    buckets_of,
    write_folder,
    write_roots,
)

from snapvideo_jax import config as configs
from snapvideo_jax.data import DataConfig, make_joint_source, seek, split_dataset
from snapvideo_jax.data.buckets import info_from_fields, matching_sizes
from snapvideo_jax.data.video import ClipInfo


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """The folders ``film`` and ``web``."""
    return write_roots(tmp_path_factory.mktemp("mixture"))


@pytest.mark.parametrize(
    ("info", "max_fps", "kind", "numbers"),
    [
        ((16, 2.0, 36, 64), 0.0, "video", [0]),
        ((15, 2.0, 36, 64), 0.0, "video", [1]),  # has too few frames for the first
        ((64, 2.0, 36, 64), 6.0, "video", [1]),  # and so at 6 frames a second
        ((64, 4.0, 36, 64), 6.0, "video", [0]),
        ((64, 2.0, 90, 60), 0.0, "video", [2]),
        ((64, 2.0, 100, 85), 0.0, "video", [2]),  # nearer than 16 : 9 by ratio
        ((7, 0.5, 90, 60), 0.0, "video", []),
        ((1, 0.0, 36, 64), 0.0, "image", [0, 1]),
        ((1, 0.0, 64, 36), 0.0, "image", [2]),
    ],
)
def test_a_file_is_assigned_to_the_nearest_size_it_has_frames_for(
    info, max_fps, kind, numbers
):
    sizes = ((16, 36, 64), (8, 36, 64), (8, 60, 40))
    frames, seconds, height, width = info
    clip = ClipInfo(frames, (frames - 1) / (seconds or 1), seconds, height, width)
    assert matching_sizes(sizes, kind, clip, max_fps) == numbers


@pytest.mark.parametrize(
    ("fields", "frames"),
    [
        (dict(height=2, width=4, frames=9, fps=4.0), 9),
        (dict(height=2, width=4, duration=2.0, fps=4.0), 9),
        (dict(height=2, width=4, frames=9, fps=None), None),
        (dict(width=4, frames=9, fps=4.0), None),
    ],
)
def test_metadata_of_a_clip_suffice_or_not(fields, frames):
    info = info_from_fields("video", fields)
    assert (info and (info.frames, info.duration)) == (frames and (frames, 2.0))


def test_every_batch_has_one_size_and_sizes_have_exact_shares(roots):
    joint = make_joint_source(buckets_of(roots), 0)
    iterator = iter(split_dataset(joint, 0, 1, ENCODER))
    for step in range(9):
        size = joint.size_of_step(step)
        assert next(iterator).batch["video"].shape == (8, *size, 3)
        wide = sum(joint.size_of_step(n) == WIDE for n in range(step + 1))
        assert abs(wide - (step + 1) * 2 / 3) < 1
    iterator.close()


def test_each_epoch_of_a_size_has_each_of_its_files_once(roots):
    """web has no tall video: there film alone gives them."""
    joint = make_joint_source(buckets_of(roots), 0)
    rows = collections.defaultdict(list)
    for sample in range(8 * 60):
        location = joint.location(sample)
        name, file = location.member.name, int(location.files[location.first])
        rows[location.kind, location.bucket, name].append(file)
    expected = {
        ("video", 0, "film"): 6, ("video", 0, "web"): 5, ("video", 1, "film"): 2,
        ("image", 0, "film"): 2, ("image", 0, "web"): 3,
        ("image", 1, "film"): 2, ("image", 1, "web"): 1,
    }  # fmt: skip
    assert {key: len(set(row)) for key, row in rows.items()} == expected
    for key, row in rows.items():
        length = expected[key]
        epochs = [row[i : i + length] for i in range(0, len(row) - length, length)]
        assert all(len(set(epoch)) == length for epoch in epochs)


def elements(config, steps, start=0, processes=1, workers=0):
    """A hash of every element of some global batches, in order."""
    found = []
    parts = []
    for process in range(processes):
        own = dict(num_workers=workers) if process + 1 == processes else {}
        joint = make_joint_source(DataConfig(**vars(config) | own), 3)
        iterator = iter(split_dataset(joint, process, processes, ENCODER))
        if start:
            seek(iterator, start)
        parts.append(list(itertools.islice(iterator, steps)))
        iterator.close()
    for step in range(steps):
        for part in parts:
            batch = part[step].batch
            found += [
                hashlib.sha256(
                    b"".join(k.encode() + batch[k][row].tobytes() for k in batch)
                ).hexdigest()
                for row in range(len(batch["sample"]))
            ]
    return found


def test_the_sequence_is_the_same_for_all_processes_workers_and_resumes(roots):
    config = buckets_of(roots)
    whole = elements(config, 6)
    assert len(set(whole)) == 48
    for processes in (2, 4):
        assert elements(config, 6, processes=processes) == whole
    found = []
    for step, (processes, workers) in enumerate(
        [(1, 2), (2, 0), (4, 2), (1, 0), (2, 2), (4, 0)]
    ):
        found += elements(config, 1, step, processes, workers)
    assert found == whole


def test_files_of_unknown_size_are_probed_and_bad_ones_are_named(tmp_path, caplog):
    files = [(f"{n}.mp4", {}, {}) for n in range(3)]
    files += [("tall.mp4", {}, dict(height=24, width=12))]
    root = write_folder(tmp_path / "data", files)
    (root / "1.mp4").write_bytes(b"?")
    data = dict(images_per_batch=0, frames=4, height=14, width=16, num_threads=2)
    config = DataConfig(source="folder", root=str(root), buckets=(TALL,), **data)
    with caplog.at_level("INFO"):
        joint = make_joint_source(config, 0, tmp_path / "skipped.jsonl")
    assert "videos: 2 of 4x14x16, 1 of 4x18x8; 1 fit none" in caplog.text
    assert '"file": "1.mp4"' in (tmp_path / "skipped.jsonl").read_text()
    assert joint.sample_caption(data["frames"] * 8)[0] != "1.mp4"


# --- Configs and training ------------------------------------------------------------


def mixture_arguments(roots):
    """Overrides of a config file with a mixture, as for the command line."""
    return [
        *(f"--config.data.mixture.{n}.root={roots[n]}" for n in ("film", "web")),
        "--config.data.mixture.web.filters=score<4",
    ]


@pytest.fixture
def mixture_file(tmp_path):
    """The tiny config with a mixture and two sizes: 4 and 4 groups of patches."""
    path = tmp_path / "mixture_config.py"
    path.write_text(
        "import tiny_config\n"
        "from snapvideo_jax import config as configs\n"
        "from snapvideo_jax.data import Part\n\n"
        "def get_config(arg=None):\n"
        "    config = tiny_config.get_config(arg)\n"
        "    config.data.update(source='mixture', root='', frames=2)\n"
        "    config.data.update(buckets=((2, 30, 8),), bucket_weights=(2.0, 1.0))\n"
        "    part = dict(source='folder', root='.', video_weight=1.0)\n"
        "    film = configs.section(Part, image_weight=1.0, **part)\n"
        "    web = configs.section(Part, **part)\n"
        "    config.data.mixture.update(film=film, web=web)\n"
        "    return config\n"
    )
    return path


def test_a_mixture_is_changed_from_the_command_line_and_saved_as_json(
    roots, mixture_file
):
    more = [
        "--config.data.mixture.film.video_weight=3",
        "--config.data.buckets=((2, 30, 8), (2, 14, 32))",
        "--config.data.bucket_weights=(1.0, 1.0, 2.0)",
    ]
    config = configs.load(str(mixture_file), mixture_arguments(roots) + more)
    built = configs.build(config)
    assert built.data.mixture["film"].video_weight == 3
    assert built.data.mixture["web"].filters == "score<4"
    assert built.model.further_sizes == ((2, 30, 8), (2, 14, 32))
    again = configs.build(configs.from_json(configs.to_json(config)))
    assert again.data == built.data and again.model == built.model


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "mixture.film.weight=3",
            "config.data.mixture.film has no field 'weight'; did",
        ),
        ("mixture.webb.root=x", "config.data.mixture has no field 'webb'; did you mea"),
        ("mixture.web.video_weight=-1", "data.mixture.web: video_weight=-1 is below"),
        (
            "buckets=((2, 30, 9),)",
            r"data.buckets has \(2, 30, 9\): model.width=9 px is",
        ),
        ("buckets=((2, 46, 8),)", r"\(2, 46, 8\): model.latents=8 cannot be divided"),
        ("buckets=((4, 14, 16),)", "put the longer first: data.frames=4, and"),
    ],
)
def test_an_invalid_mixture_is_refused_in_one_line(
    run, roots, mixture_file, tmp_path, override, message
):
    code, _, errors = run(
        *("train", "--config", mixture_file, "--workdir", tmp_path / "run"),
        *mixture_arguments(roots),
        f"--config.data.{override}",
    )
    assert code == 2 and errors.count("\n") == 1
    with pytest.raises(ValueError, match=message):
        raise ValueError(errors)


@pytest.mark.slow
def test_a_fit_trains_on_two_sizes_through_the_verb(run, roots, mixture_file, tmp_path):
    """6 steps; and what was killed after 4 of them ends with the same state."""
    command = ["train", "--config", mixture_file, *mixture_arguments(roots)]
    command += ["--config.optimizer.steps=6"]
    whole, twice = tmp_path / "whole", tmp_path / "twice"
    code, _, errors = run(*command, "--workdir", whole)
    assert code == 0, errors
    losses = [line["loss"] for line in read_metrics(whole)]
    assert len(losses) == 6 and np.isfinite(losses).all()
    state = restore(whole)
    tables = {
        key.split("'")[1]: value
        for key, value in state.items()
        if key.startswith(".params") and "position" in key
    }
    assert {key: value.shape for key, value in tables.items()} == {
        "patch_position": (32, 8),
        "patch_position_30x8": (32, 8),
    }
    fresh = configs.build(configs.load(str(mixture_file), mixture_arguments(roots)))
    for grid, table in zip(fresh.model.grids, tables.values(), strict=True):
        assert np.abs(table - grid._position_init(None, table.shape)).max() > 1e-3
    # Killed after step 4, the run resumes to the same result.
    shutil.copytree(whole, twice, ignore=shutil.ignore_patterns("6", "sheets"))
    code, _, errors = run(*command, "--workdir", twice)
    assert code == 0, errors
    for key, value in restore(twice).items():
        np.testing.assert_array_equal(value, state[key], err_msg=key)


def test_each_height_and_width_has_a_table_of_positions():
    """Shorter clips of a size use the beginning of its table, as they always did."""
    config = configs.load(
        TINY_CONFIG, ["--config.data.buckets=((1, 14, 16), (2, 30, 8), (1, 30, 8))"]
    )
    model = configs.build(config).model
    assert [(g.frames, g.height, g.width) for g in model.grids] == [
        (2, 14, 16),
        (2, 30, 8),
    ]


def test_published_networks_are_unchanged():
    config = configs.load(f"{tiny.CONFIGS}/fit.py:size=500m", [])
    assert configs.build(config).model.further_sizes == ()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("unet.py", "model.name='unet' takes clips of one size; use 'fit', or"),
        ("fit_upsampler.py", "an upsampler takes clips of one size; use"),
    ],
)
def test_networks_of_one_size_are_refused(name, message):
    buckets = "--config.data.buckets=((8, 288, 512),)"
    with pytest.raises(ValueError, match=message):
        configs.build(configs.load(f"{tiny.CONFIGS}/{name}", [buckets]))
