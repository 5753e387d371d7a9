"""Several data sets in exact shares, batches of several sizes, and what is filtered."""

import collections
import hashlib
import itertools
import json
import shutil

import numpy as np
import pytest
from helpers import TINY_CONFIG, read_metrics, restore

from snapvideo_jax import config as configs
from snapvideo_jax.data import (
    DataConfig,
    Part,
    RecordSource,
    make_joint_source,
    seek,
    split_dataset,
)
from snapvideo_jax.data.buckets import fitting, known_info
from snapvideo_jax.data.filters import parse
from snapvideo_jax.data.records import RecordWriter, encode_mp4, encode_png
from snapvideo_jax.data.schedule import Schedule
from snapvideo_jax.data.sources import FolderSource
from snapvideo_jax.data.video import ClipInfo
from snapvideo_jax.text import HashTextEncoder

ENCODER = HashTextEncoder(tokens=4, width=8)
WIDE, TALL = (4, 14, 16), (4, 18, 8)
"""Sizes of batches, in frames, height and width."""


def media(name, number, frames=8, height=18, width=24, fps=8):
    """A clip or picture that no other is equal to."""
    rng = np.random.default_rng([number, height])
    pixels = rng.integers(256, size=(frames, height, width, 3), dtype=np.uint8)
    return encode_png(pixels[0]) if ".png" in name else encode_mp4(pixels, fps=fps)


def write_folder(root, files):
    """A folder of ``files``: name, what is said of it, what it holds."""
    root.mkdir()
    lines = []
    for number, (name, said, held) in enumerate(files):
        (root / name).write_bytes(media(name, number, **held))
        kind = "image" if name.endswith("png") else "video"
        lines.append({"file": name, "type": kind, "caption": name} | said)
    (root / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return root


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """Folders ``film`` (6 wide clips of 24 fps, 2 tall ones, 2 pictures of each shape)
    and ``web`` (5 wide clips of 8 fps; 4 pictures, one tall), with scores from 0 up."""
    root = tmp_path_factory.mktemp("mixture")
    tall = dict(height=24, width=12)
    film = [(f"{n}.mp4", {"score": n}, dict(fps=24)) for n in range(6)]
    film += [(f"tall{n}.mp4", {"score": 9}, tall) for n in range(2)]
    film += [(f"{n}.png", {}, {}) for n in range(2)]
    film += [(f"tall{n}.png", {}, tall) for n in range(2)]
    web = [(f"w{n}.mp4", {"score": n}, {}) for n in range(5)]
    web += [(f"w{n}.png", {}, {}) for n in range(3)] + [("wt.png", {}, tall)]
    return {
        "film": write_folder(root / "film", film),
        "web": write_folder(root / "web", web),
    }


def parts(roots, **more):
    """film and web with weights 3 and 2 for videos, 1 and 1 for images."""
    film = dict(video_weight=3.0, image_weight=1.0, max_fps=24.0, min_fps=12.0)
    web = dict(video_weight=2.0, image_weight=1.0, max_fps=4.0, min_fps=4.0)
    return {
        name: Part(source="folder", root=str(roots[name]), **fields | more)
        for name, fields in (("film", film), ("web", web))
    }


def config_of(roots, **changes):
    fields = dict(source="mixture", mixture=parts(roots), videos_per_batch=6)
    fields |= dict(images_per_batch=2, num_threads=0)
    fields |= dict(zip(("frames", "height", "width"), WIDE, strict=True))
    return DataConfig(**fields | changes)


def buckets_of(roots, **changes):
    """Two sizes, the wide one twice as often."""
    return config_of(roots, buckets=(TALL,), bucket_weights=(2.0, 1.0), **changes)


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


def test_weights_that_never_come_out_even_are_refused():
    with pytest.raises(ValueError, match=r"w=0.123457, 1 come out .*; round them"):
        Schedule((0.1234567, 1.0), "w")


# --- Mixtures ------------------------------------------------------------------------


def spots(joint, kind, count):
    """Data set and file of the first samples of a kind."""
    found = map(joint.spot, itertools.count())
    of_kind = (spot for spot in found if spot.kind == kind)
    return [
        (spot.member.name, int(spot.files[spot.first]))
        for spot in itertools.islice(of_kind, count)
    ]


def test_data_sets_keep_their_shares_and_whole_epochs(roots):
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
        if joint.spot(sample).kind == "video":
            rate = 1 / joint[sample]["frame_interval"]
            rates[joint.spot(sample).member.name].add(round(float(rate), 3))
    assert rates["web"] == {4.0}
    # The tall clips of film have 8 frames a second, and keep them.
    lowest, *others, highest = sorted(rates["film"])
    assert (lowest, len(others) > 5) == (8, True)
    assert 12 <= others[0] < highest <= 24


def test_a_lone_data_set_is_the_same_in_a_mixture_of_one(roots):
    """But for its name, which shuffles it anew, and stands in messages."""
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
    said = [{"captions": [f"{n} a", f"{n} b", f"{n} a"]} for n in range(3)]
    files = [(f"{n}.mp4", each, {}) for n, each in enumerate(said)]
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


def test_captions_that_nothing_lists_are_read_for_some_time_only(records, caplog):
    (records / "video.jsonl").unlink()
    joint = make_joint_source(record_config(records), 0)
    with caplog.at_level("INFO"):
        assert sorted(joint.captions()) == [str(n) for n in range(8)]
        assert list(joint.captions(seconds=0)) == []
    assert "Looked at the captions of 8 of 8 samples." in caplog.messages
    assert "Looked at the captions of 0 of 8 samples." in caplog.messages


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"captions": "x"}, "line 1 has captions='x', wanted a list of strings"),
        ({"captions": [1]}, r"line 1 has captions=\[1\], wanted a list of strings"),
        ({"caption": None}, "line 1 has caption=None, wanted a string"),
    ],
)
def test_captions_that_are_no_texts_are_refused(tmp_path, said, message):
    root = write_folder(tmp_path / "data", [("0.mp4", said, {})])
    with pytest.raises(ValueError, match=message):
        FolderSource(root, "video")


# --- Filters -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "fields", "holds"),
    [
        ("score>=5", {"score": 5}, True),
        ("score > 5", {"score": 5}, False),
        ("score<5.5", {"score": 5.4}, True),
        ("score!=5", {"score": 6}, True),
        ("score>=5", {}, False),
        ("score>=5", {"score": "9"}, False),
        ("codec==h264", {"codec": "h264"}, True),
        ("codec!=h264", {"codec": "hevc"}, True),
        ("marked==false", {"marked": False}, True),
    ],
)
def test_a_rule_holds_or_does_not(text, fields, holds):
    (rule,) = parse(text, "filters")
    assert rule.holds(fields) is holds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("score", "data.filters has the rule 'score'; write a field, one of >="),
        ("score=5", "has the rule 'score=5'; write a field"),
        ("a>1, codec>h264", "'codec>h264', but 'h264' is no number; texts .* by =="),
    ],
)
def test_a_rule_that_makes_no_sense_is_named(text, message):
    with pytest.raises(ValueError, match=message):
        DataConfig(filters=text)


def test_a_folder_is_filtered_at_once_and_the_log_counts(roots, caplog):
    with caplog.at_level("INFO"):
        source = FolderSource(
            roots["film"], "video", filters=parse("score>=2, score<9", "")
        )
    names = [source[index].name for index in range(len(source))]
    assert names == ["2.mp4", "3.mp4", "4.mp4", "5.mp4"]
    assert "4 of 8 kept: score>=2 drops 2, score<9 drops 2" in caplog.text


def test_filters_that_leave_nothing_say_how_many_each_dropped(roots):
    mixture = parts(roots, filters="score<3, size>1")
    with pytest.raises(
        ValueError,
        match=r"^data.mixture.film: data.filters keep none of 8 of the videos of "
        r"data.root='.*film': score<3 drops 5, size>1 drops 3 \(3 do not say\); loosen",
    ):
        make_joint_source(config_of(roots, mixture=mixture), 0)


@pytest.fixture
def records(tmp_path):
    """8 records with scores 0 to 7; number 5 is no clip."""
    with RecordWriter(tmp_path / "video.array_record") as writer:
        for n in range(8):
            data = b"?" if n == 5 else media("a.mp4", n)
            fields = {"type": "video", "caption": f"{n}", "file": f"{n}.mp4"}
            writer.write(fields | {"score": n, "data": data})
    return tmp_path


def record_config(root, **changes):
    data = dict(frames=4, height=14, width=16, videos_per_batch=4, images_per_batch=0)
    return DataConfig(source="records", root=str(root), num_threads=0, **data | changes)


@pytest.mark.parametrize("listed", [True, False])
def test_records_are_filtered_and_not_counted_as_broken(records, tmp_path, listed):
    """By their headers, or, where those are not beside them, when they are met."""
    if not listed:
        (records / "video.jsonl").unlink()
    path = tmp_path / "skipped.jsonl"
    joint = make_joint_source(record_config(records, filters="score>=4"), 0, path)
    iterator = iter(split_dataset(joint, 0, 1, ENCODER))
    samples = [int(x) for _ in range(8) for x in next(iterator)["sample"]]
    iterator.close()
    assert {joint.sample_caption(x)[0] for x in samples} == {
        *("4.mp4", "6.mp4", "7.mp4")
    }
    (line,) = map(json.loads, path.read_text().splitlines())
    assert (line["file"], line["of"]) == ("5.mp4", 4 if listed else 8)
    assert (joint.filtered > 0) is not listed


def test_headers_of_other_records_are_refused(records):
    with (records / "video.jsonl").open("a") as file:
        file.write("{}\n")
    with pytest.raises(ValueError, match="9 headers in .* beside 8 records; prepare"):
        RecordSource(records, "video", filters=parse("score>1", ""))


# --- Buckets -------------------------------------------------------------------------


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
def test_a_file_goes_to_the_nearest_size_that_it_fills(info, max_fps, kind, numbers):
    sizes = ((16, 36, 64), (8, 36, 64), (8, 60, 40))
    frames, seconds, height, width = info
    clip = ClipInfo(frames, (frames - 1) / (seconds or 1), seconds, height, width)
    assert fitting(sizes, kind, clip, max_fps) == numbers


@pytest.mark.parametrize(
    ("fields", "frames"),
    [
        (dict(height=2, width=4, frames=9, fps=4.0), 9),
        (dict(height=2, width=4, duration=2.0, fps=4.0), 9),
        (dict(height=2, width=4, frames=9, fps=None), None),
        (dict(width=4, frames=9, fps=4.0), None),
    ],
)
def test_what_is_said_of_a_clip_is_enough_or_not(fields, frames):
    info = known_info("video", fields)
    assert (info and (info.frames, info.duration)) == (frames and (frames, 2.0))


def test_every_batch_is_of_one_size_and_sizes_keep_their_shares(roots):
    joint = make_joint_source(buckets_of(roots), 0)
    iterator = iter(split_dataset(joint, 0, 1, ENCODER))
    for step in range(9):
        size = joint.size_of_step(step)
        assert next(iterator)["video"].shape == (8, *size, 3)
        wide = sum(joint.size_of_step(n) == WIDE for n in range(step + 1))
        assert abs(wide - (step + 1) * 2 / 3) < 1
    iterator.close()


def test_files_of_a_size_come_once_an_epoch_and_no_others(roots):
    """web has no tall video: there film alone gives them."""
    joint = make_joint_source(buckets_of(roots), 0)
    rows = collections.defaultdict(list)
    for sample in range(8 * 60):
        spot = joint.spot(sample)
        name, file = spot.member.name, int(spot.files[spot.first])
        rows[spot.kind, spot.bucket, name].append(file)
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
            batch = part[step]
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


def test_files_of_unknown_size_are_looked_at_and_bad_ones_are_named(tmp_path, caplog):
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


# --- What is refused -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(mixture={}), "data.mixture has no data set of videos, data.videos_per_b"),
        (dict(source="folder", root="x"), r"data.mixture names \['film', 'web'\], but"),
        (dict(subset=3), "data.subset=3 is of a single data set; .*NAME.subset"),
        (dict(buckets=((4, 14),)), r"data.buckets has \(4, 14\); a size is"),
        (dict(buckets=(WIDE,)), "has a size twice"),
        (dict(bucket_weights=(1.0, 2.0)), "are not 1 numbers above 0: one for data.fr"),
    ],
)
def test_mixtures_and_buckets_that_make_no_sense_are_refused(roots, changes, message):
    with pytest.raises(ValueError, match=message):
        config_of(roots, **changes)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(), "video_weight=0 and image_weight=0 take nothing; set one above 0"),
        (dict(video_weight=-1.0), "video_weight=-1 is below 0; use 0 or more"),
        (dict(source="tfds", video_weight=1.0), "data.tfds_videos is empty, video_wei"),
    ],
)
def test_a_part_that_takes_nothing_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Part(**fields)


def test_a_size_that_no_file_goes_to_is_refused(roots):
    with pytest.raises(
        ValueError, match="no video goes to the size of 4 frames of 14x140, others are"
    ):
        make_joint_source(config_of(roots, buckets=((4, 14, 140),)), 0)


def test_a_data_set_without_clips_long_enough_is_named(roots):
    with pytest.raises(ValueError, match="data.mixture.film: data.frames=9 is more"):
        make_joint_source(config_of(roots, frames=9), 0)


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


def test_a_mixture_is_changed_from_the_command_line_and_kept_as_json(
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
        ("buckets=((4, 14, 16),)", "put the longer one first: data.frames=4, and"),
    ],
)
def test_a_mixture_that_cannot_be_is_refused_in_one_line(
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


def test_a_fit_trains_on_two_sizes_through_the_verb(run, roots, mixture_file, tmp_path):
    """12 steps; and what was killed after 6 of them ends with the same state."""
    command = ["train", "--config", mixture_file, *mixture_arguments(roots)]
    whole, twice = tmp_path / "whole", tmp_path / "twice"
    code, _, errors = run(*command, "--workdir", whole)
    assert code == 0, errors
    losses = [line["loss"] for line in read_metrics(whole)]
    assert len(losses) == 12 and np.isfinite(losses).all()
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
    # Killed half way: what it had at step 6 goes on to the same end.
    shutil.copytree(
        whole, twice, ignore=shutil.ignore_patterns("8", "10", "12", "sheets")
    )
    code, _, errors = run(*command, "--workdir", twice)
    assert code == 0, errors
    for key, value in restore(twice).items():
        np.testing.assert_array_equal(value, state[key], err_msg=key)


def test_a_table_of_positions_is_of_a_height_and_width():
    """Shorter clips of a size use the beginning of its table, as they always did."""
    config = configs.load(
        TINY_CONFIG, ["--config.data.buckets=((1, 14, 16), (2, 30, 8), (1, 30, 8))"]
    )
    model = configs.build(config).model
    assert [(g.frames, g.height, g.width) for g in model.grids] == [
        (2, 14, 16),
        (2, 30, 8),
    ]


def test_no_published_network_changed_by_it():
    config = configs.load("configs/fit.py:size=500m", [])
    assert configs.build(config).model.further_sizes == ()
