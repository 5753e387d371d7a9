"""Several data sets in one sequence, each in its exact share."""

import collections
import itertools
import json

import numpy as np
import pytest
from mixing import (
    WIDE,
    config_of,
    parts,
    write_folder,
    write_roots,
)

from snapvideo_jax.data import DataConfig, Part, make_joint_source
from snapvideo_jax.data.schedule import Schedule
from snapvideo_jax.data.sources import FolderSource


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """The folders ``film`` and ``web``."""
    return write_roots(tmp_path_factory.mktemp("mixture"))


# --- Schedules -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "weights",
    [(1.0,), (3.0, 1.0), (0.7, 0.2, 0.1), (5.0, 5.0, 5.0, 1.0), (1.5, 0.25, 9.0, 3.3)],
)
def test_after_any_number_of_draws_each_count_is_within_1_of_its_share(weights):
    schedule, counts = Schedule(weights, "w"), np.zeros(len(weights))
    shares = np.array(weights) / sum(weights)
    for draw in range(2 * sum(schedule.counts) + 1):
        who, before = schedule[draw]
        assert before == counts[who]
        counts[who] += 1
        assert (abs(counts - (draw + 1) * shares) < 1).all()
    assert schedule[10**12 * sum(schedule.counts)] == (
        schedule[0][0],
        10**12 * schedule.counts[schedule[0][0]],
    )


def test_weights_without_a_short_period_are_refused():
    with pytest.raises(ValueError, match=r"w=0.123457, 1 come out .*; round them"):
        Schedule((0.1234567, 1.0), "w")


# --- Mixtures ------------------------------------------------------------------------


def spots(joint, kind, count):
    """Data set and file of the first samples of a kind."""
    found = map(joint.location, itertools.count())
    of_kind = (location for location in found if location.kind == kind)
    return [
        (location.member.name, int(location.files[location.first]))
        for location in itertools.islice(of_kind, count)
    ]


def test_data_sets_have_exact_shares_and_whole_epochs(roots):
    joint = make_joint_source(config_of(roots), 0)
    for kind, shares in (("video", (0.6, 0.4)), ("image", (0.5, 0.5))):
        found = spots(joint, kind, 200)
        for n in range(1, 201):
            film = sum(name == "film" for name, _ in found[:n])
            assert abs(film - n * shares[0]) < 1
        for name, length in ((("film", 8), ("web", 5)), (("film", 4), ("web", 4)))[
            kind == "image"
        ]:
            row = [index for each, index in found if each == name]
            epochs = [row[i : i + length] for i in range(0, len(row), length)][:-1]
            assert len(epochs) > 5 and len(set(map(tuple, epochs))) > 5
            assert all(sorted(epoch) == list(range(length)) for epoch in epochs)


def test_every_data_set_has_its_own_rates(roots):
    joint = make_joint_source(config_of(roots), 0)
    rates = collections.defaultdict(set)
    for sample in range(64):
        if joint.location(sample).kind == "video":
            rate = 1 / joint[sample]["frame_interval"]
            rates[joint.location(sample).member.name].add(round(float(rate), 3))
    assert rates["web"] == {4.0}
    # The tall clips of film have 8 frames a second, and keep them.
    lowest, *others, highest = sorted(rates["film"])
    assert (lowest, len(others) > 5) == (8, True)
    assert 12 <= others[0] < highest <= 24


def test_a_single_data_set_equals_a_mixture_of_one(roots):
    """Except for its name, which changes the permutations and is in messages."""
    mixture = {"film": parts(roots)["film"]}
    joint = make_joint_source(config_of(roots, mixture=mixture), 0)
    name, caption = joint.sample_caption(0)
    assert name == f"film: {caption}"


def test_unusable_files_are_named_with_their_data_set(roots, tmp_path):
    root = write_folder(tmp_path / "bad", [(f"{n}.mp4", {}, {}) for n in range(4)])
    (root / "2.mp4").write_bytes(b"?")
    mixture = parts(roots) | {"web": Part("folder", str(root), video_weight=1.0)}
    joint = make_joint_source(
        config_of(roots, mixture=mixture), 0, tmp_path / "skipped.jsonl"
    )
    for sample in range(80):
        joint[sample]
    (line,) = map(json.loads, (tmp_path / "skipped.jsonl").read_text().splitlines())
    assert (line["file"], line["of"]) == ("web: 2.mp4", 8 + 4)


# --- Captions ------------------------------------------------------------------------


def test_one_of_several_captions_is_drawn_for_each_sample(tmp_path):
    fields = [{"captions": [f"{n} a", f"{n} b", f"{n} a"]} for n in range(3)]
    files = [(f"{n}.mp4", each, {}) for n, each in enumerate(fields)]
    root = write_folder(tmp_path / "data", files)
    data = dict(frames=4, height=14, width=16, images_per_batch=0, num_threads=0)
    joint = make_joint_source(
        DataConfig(source="folder", root=str(root), **data), seed=0
    )
    drawn = [joint.sample_caption(sample) for sample in range(90)]
    assert drawn == [joint.sample_caption(sample) for sample in range(90)]
    counts = collections.Counter(caption for _, caption in drawn)
    assert set(counts) == {f"{n}{x}" for n in range(3) for x in (".mp4", " a", " b")}
    assert min(counts.values()) >= 3
    assert set(joint.captions()) == set(counts)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"captions": "x"}, "line 1 has captions='x', wanted a list of strings"),
        ({"captions": [1]}, r"line 1 has captions=\[1\], wanted a list of strings"),
        ({"caption": None}, "line 1 has caption=None, wanted a string"),
    ],
)
def test_captions_that_are_not_texts_are_refused(tmp_path, fields, message):
    root = write_folder(tmp_path / "data", [("0.mp4", fields, {})])
    with pytest.raises(ValueError, match=message):
        FolderSource(root, "video")


# --- What is refused -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(mixture={}), "data.mixture has no data set of videos, data.videos_per_b"),
        (dict(source="folder", root="x"), r"data.mixture names \['film', 'web'\], but"),
        (dict(subset=3), "data.subset=3 is for a single data set; .*NAME.subset"),
        (dict(buckets=((4, 14),)), r"data.buckets has \(4, 14\); a size is"),
        (dict(buckets=(WIDE,)), "has a size twice"),
        (dict(bucket_weights=(1.0, 2.0)), "are not 1 numbers above 0: one for data.fr"),
    ],
)
def test_invalid_mixtures_and_buckets_are_refused(roots, changes, message):
    with pytest.raises(ValueError, match=message):
        config_of(roots, **changes)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            dict(),
            "video_weight=0 and image_weight=0 exclude the data set; set one above 0",
        ),
        (dict(video_weight=-1.0), "video_weight=-1 is below 0; use 0 or more"),
        (dict(source="tfds", video_weight=1.0), "data.tfds_videos is empty, video_wei"),
    ],
)
def test_a_part_with_weights_of_zero_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Part(**fields)


def test_a_size_without_files_is_refused(roots):
    with pytest.raises(
        ValueError,
        match="no video is assigned to the size of 4 frames of 14x140, others are",
    ):
        make_joint_source(config_of(roots, buckets=((4, 14, 140),)), 0)


def test_a_data_set_without_clips_long_enough_is_named(roots):
    with pytest.raises(ValueError, match="data.mixture.film: data.frames=9 is more"):
        make_joint_source(config_of(roots, frames=9), 0)
