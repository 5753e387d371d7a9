"""The sequence of batches is a pure function of the seed, however it is computed."""

import collections
import dataclasses
import hashlib
import itertools
import json
import logging
from pathlib import Path

import numpy as np
import pytest

from snapvideo_jax.data import (
    DataConfig,
    JointSource,
    Member,
    Skipped,
    captions_of,
    decode_at,
    make_dataset,
    make_joint_source,
    make_sources,
    seek,
    split_dataset,
)
from snapvideo_jax.data.records import encode_mp4, encode_png
from snapvideo_jax.data.shapes import dataset as shapes
from snapvideo_jax.data.sources import Sample
from snapvideo_jax.text import HashTextEncoder

CLIPS = Path(__file__).parents[1] / "../shared/clips"
ENCODER = HashTextEncoder(tokens=6, width=8)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder of 10 videos (some too short) and 6 images with captions."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    lines = []
    for index in range(10):
        frames = rng.integers(256, size=(12 + index, 20, 32, 3), dtype=np.uint8)
        name, data = f"{index}.mp4", encode_mp4(frames, fps=12)
        lines.append({"file": name, "type": "video", "caption": f"clip {index}"})
        (root / name).write_bytes(data)
    for index in range(6):
        frame = rng.integers(256, size=(20 + index, 30, 3), dtype=np.uint8)
        name = f"{index}.png"
        lines.append({"file": name, "type": "image", "caption": f"picture {index}"})
        (root / name).write_bytes(encode_png(frame))
    (root / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return str(root)


def config_of(root, **changes):
    fields = dict(source="folder", root=root, frames=8, height=9, width=16)
    fields |= dict(videos_per_batch=8, images_per_batch=4, num_threads=0)
    return DataConfig(**(fields | changes))


def batches(dataset, count, start=0):
    iterator = iter(dataset)
    if start:
        seek(iterator, start)
    try:
        fetched = itertools.islice(iterator, count)
        return [{**batch, "moved": moved} for batch, moved in fetched]
    finally:
        iterator.close()


def elements(config, count=3, start=0, processes=1, seed=5, workers=0):
    """A hash of every element of the global batches, in order.

    The last process reads with so many worker processes, the others with none.
    """
    alone = make_joint_source(config, seed)
    helped = make_joint_source(dataclasses.replace(config, num_workers=workers), seed)
    joints = (processes - 1) * [alone] + [helped]
    parts = [
        batches(split_dataset(joint, process, processes, ENCODER), count, start)
        for process, joint in enumerate(joints)
    ]
    return [
        hashlib.sha256(
            b"".join(key.encode() + part[step][key][row].tobytes() for key in part[0])
        ).hexdigest()
        for step in range(count)
        for part in parts
        for row in range(config.batch // processes)
    ]


def test_a_batch_has_the_agreed_shapes_and_types(root):
    dataset = make_dataset(config_of(root), 0, 0, 1, ENCODER)
    (batch,) = batches(dataset, 1)
    assert {key: (value.dtype.name, value.shape) for key, value in batch.items()} == {
        "video": ("uint8", (12, 8, 9, 16, 3)),
        "frame_interval": ("float32", (12,)),
        "resolution": ("float32", (12, 2)),
        "text_input": ("float32", (12, 6, 8)),
        "text_mask": ("bool", (12, 6)),
        **dict.fromkeys(("sample", "moved"), ("uint32", (12,))),
    }
    assert batch["sample"].tolist() == list(range(12))


def test_text_is_the_embedding_of_each_caption(root):
    joint = make_joint_source(config_of(root), 0)
    (batch,) = batches(split_dataset(joint, 0, 1, ENCODER), 1)
    captions = [caption for _, caption in captions_of(joint, batch["sample"])]
    text, mask = ENCODER.encode(captions)
    np.testing.assert_array_equal(batch["text_input"], text)
    np.testing.assert_array_equal(batch["text_mask"], mask)


@pytest.mark.parametrize(
    ("videos", "images", "kinds"),
    [
        (3, 3, "vi vi vi"),
        (6, 2, "vvvi vvvi"),
        (2, 4, "vii vii"),
        (3, 2, "vvvii"),
        (4, 0, "v v v v"),
        (0, 3, "i i i"),
    ],
)
def test_kinds_take_fixed_places_in_every_batch(root, videos, images, kinds):
    config = config_of(root, videos_per_batch=videos, images_per_batch=images)
    joint = JointSource(config, {}, 0, Skipped(None, 0.5))
    places = [joint.place(sample) for sample in range(3 * config.batch)]
    assert "".join(kind[0] for kind, _ in places) == 3 * kinds.replace(" ", "")
    # Each kind is numbered without gaps.
    for kind in ("video", "image"):
        numbers = [number for found, number in places if found == kind]
        assert numbers == list(range(len(numbers)))


def test_an_image_is_a_video_of_equal_frames_with_interval_0(root):
    for batch in batches(make_dataset(config_of(root), 0, 0, 1, ENCODER), 2):
        image = np.arange(12) % 3 == 2
        still = (batch["video"] == batch["video"][:, :1]).all((1, 2, 3, 4))
        np.testing.assert_array_equal(still, image)
        np.testing.assert_array_equal(batch["frame_interval"] == 0, image)
        assert (batch["frame_interval"][~image] >= np.float32(1 / 12)).all()


def test_resolution_is_that_of_the_file(root):
    joint = make_joint_source(config_of(root), 0)
    for sample in range(12):
        name, _ = joint.sample_caption(sample)
        height, width = joint[sample]["resolution"]
        number, ending = name.split(".")
        assert (height, width) == (
            (20, 32) if ending == "mp4" else (20 + int(number), 30)
        )


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_every_file_comes_once_an_epoch_over_all_processes(root, processes):
    joint = make_joint_source(config_of(root), 3)
    parts = [split_dataset(joint, i, processes, ENCODER) for i in range(processes)]
    samples = np.concatenate([x["sample"] for part in parts for x in batches(part, 5)])
    assert sorted(samples) == list(range(60))
    seen = collections.defaultdict(list)
    for name, _ in captions_of(joint, np.sort(samples)):
        seen[name[-3:]].append(name)
    for names, files in ((seen["mp4"], 10), (seen["png"], 6)):
        epochs = [names[i : i + files] for i in range(0, len(names), files)]
        full = [epoch for epoch in epochs if len(epoch) == files]
        assert len(full) >= 3
        assert all(len(set(epoch)) == files for epoch in full)
        assert full[0] != full[1]


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("threads", [0, 2])
def test_the_sequence_is_the_same_for_all_processes_and_threads(
    root, processes, threads
):
    reference = elements(config_of(root))
    config = config_of(root, num_threads=threads)
    assert elements(config, processes=processes) == reference
    later = elements(config, count=1, start=2, processes=processes)
    assert later == reference[24:]


def test_a_resume_with_other_processes_and_workers_continues_the_sequence(root):
    config = config_of(root)
    found = []
    for step, (processes, workers) in enumerate(
        [(1, 2), (2, 0), (4, 2), (2, 2), (1, 0), (4, 0)]
    ):
        found += elements(config, 1, step, processes, workers=workers)
    assert found == elements(config, 6)


def test_another_seed_is_another_sequence(root):
    assert elements(config_of(root), 1, seed=5) != elements(config_of(root), 1, seed=6)


@pytest.mark.parametrize("cache", [1, 64])
def test_memory_for_decoded_files_changes_nothing(root, cache):
    config = config_of(root, cache_decoded_mb=cache, frames=14)
    assert elements(config, 6) == elements(config_of(root, frames=14), 6)


def test_a_process_may_load_any_rows_of_a_batch(root):
    joint = make_joint_source(config_of(root), 5)
    rows = [0, 1, 6, 11]
    whole = batches(split_dataset(joint, 0, 1, ENCODER), 3)
    for ours, theirs in zip(
        batches(split_dataset(joint, 1, 3, ENCODER, rows), 3), whole, strict=True
    ):
        assert set(ours) == set(theirs)
        for name, leaf in ours.items():
            np.testing.assert_array_equal(leaf, theirs[name][rows], err_msg=name)


@pytest.mark.parametrize("workers", [1, 2])
def test_reading_processes_change_nothing(root, workers):
    config = config_of(root, num_workers=workers)
    joint = make_joint_source(config, 5)
    iterator = iter(split_dataset(joint, 0, 1, ENCODER))
    reference = batches(make_dataset(config_of(root), 5, 0, 1, ENCODER), 6)
    try:
        for start, count in ((3, 3), (0, 2)):
            seek(iterator, start)
            for step in range(start, start + count):
                batch, moved = next(iterator)
                np.testing.assert_equal({**batch, "moved": moved}, reference[step])
    finally:
        iterator.close()


def test_a_saved_state_resumes_where_it_was_saved(root):
    dataset = make_dataset(config_of(root, num_threads=2), 0, 0, 1, ENCODER)
    iterator = iter(dataset)
    next(iterator)
    state = json.loads(json.dumps(iterator.get_state()))
    following = next(iterator).batch["video"]
    iterator.close()
    restored = iter(dataset)
    restored.set_state(state)
    np.testing.assert_array_equal(next(restored).batch["video"], following)
    restored.close()


def test_seek_reaches_the_last_steps_of_a_long_run(root):
    joint = make_joint_source(config_of(root), 0)
    (batch,) = batches(split_dataset(joint, 0, 1, ENCODER), 1, start=300_000_000)
    assert batch["sample"][0] == 3_600_000_000


def test_subset_keeps_the_first_videos_only(root):
    joint = make_joint_source(config_of(root, subset=2), 0)
    names = {name for name, _ in captions_of(joint, range(36))}
    assert {name for name in names if name.endswith("mp4")} == {"0.mp4", "1.mp4"}
    assert len(names) == 2 + 6


def test_the_whole_picture_is_used_where_the_aspect_fits(root):
    config = config_of(root, height=10, width=16, frames=12, videos_per_batch=1)
    config = dataclasses.replace(config, images_per_batch=0, subset=1)
    joint = make_joint_source(config, 0)
    source = make_sources(config)["video"][0].source
    frames = decode_at(source[0].data, np.arange(12) / 12, (10, 16))
    np.testing.assert_array_equal(joint[0]["video"], frames)


# Files that cannot be used.


class Memory:
    """A source of samples in memory."""

    def __init__(self, kind, samples):
        self.kind, self.samples = kind, samples

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        return self.samples[index]

    def headers(self):
        return None


def some_broken(root, broken, path=None, share=0.5, kind="video"):
    """Samples of one kind; those with numbers in ``broken`` cannot be decoded."""
    amounts = {"videos_per_batch": 0, "images_per_batch": 0, f"{kind}s_per_batch": 5}
    config = config_of(root, max_skipped_share=share, **amounts)
    source = make_sources(config)[kind][0].source
    samples = [
        Sample(x.name, x.caption, b"?" if index in broken else x.data)
        for index, x in enumerate(source[i] for i in range(len(source)))
    ]
    sources = {kind: [Member(Memory(kind, samples))]}
    return JointSource(config, sources, 0, Skipped(path, share))


def test_an_unusable_file_is_replaced_by_the_next_one(root):
    whole, broken = some_broken(root, ()), some_broken(root, {3, 4, 9})
    heirs = {"3.mp4": "5.mp4", "4.mp4": "5.mp4", "9.mp4": "0.mp4"}
    for sample in range(20):
        name, _ = whole.sample_caption(sample)
        heir, caption = broken.sample_caption(sample)
        assert heir == heirs.get(name, name)
        assert caption == f"clip {heir[0]}"
        if heir == name:
            np.testing.assert_array_equal(
                whole[sample]["video"], broken[sample]["video"]
            )


def test_a_sample_does_not_depend_on_samples_loaded_before(root):
    used, fresh = some_broken(root, {3, 4}), some_broken(root, {3, 4})
    forwards = [used[sample]["video"] for sample in range(10)]
    backwards = [fresh[sample]["video"] for sample in reversed(range(10))]
    np.testing.assert_array_equal(forwards, backwards[::-1])


def test_unusable_files_are_listed_once_with_a_reason(root, tmp_path, caplog):
    path = tmp_path / "run" / "skipped.jsonl"
    with caplog.at_level(logging.WARNING):
        for _ in range(2):  # a run, and the same run resumed
            joint = some_broken(root, {3, 7}, path)
            for sample in range(20):
                joint[sample]
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert sorted(lines, key=lambda line: line["file"]) == [
        {"kind": "video", "file": file, "reason": "not a video file", "of": 10}
        for file in ("3.mp4", "7.mp4")
    ]
    assert sum("Skipping 3.mp4: not a video" in text for text in caplog.messages) == 1


def test_too_many_unusable_files_end_the_run(root, tmp_path):
    joint = some_broken(root, {0, 1, 2, 3}, tmp_path / "skipped.jsonl", share=0.3)
    with pytest.raises(
        ValueError,
        match=r"4 of 10 videos cannot be used, more than the share "
        r"data.max_skipped_share=0.3 \(last: .*not a video file\); .*skipped.jsonl",
    ):
        for sample in range(10):
            joint[sample]


@pytest.mark.parametrize("kind", ["video", "image"])
def test_no_usable_file_at_all_ends_the_run(root, kind):
    joint = some_broken(root, set(range(10)), share=1.0, kind=kind)
    with pytest.raises(ValueError, match=rf"none of the \d+ {kind}s can be used; rep"):
        joint[0]


def test_clips_that_are_too_short_are_skipped(root, tmp_path):
    joint = make_joint_source(config_of(root, frames=20), 0, tmp_path / "skipped.jsonl")
    with pytest.raises(ValueError, match="6 of 10 videos cannot be used"):
        for sample in range(24):
            joint[sample]
    first = json.loads((tmp_path / "skipped.jsonl").read_text().splitlines()[0])
    assert first["reason"].endswith("frames, data.frames=20 needs at least 20")


# Settings that do not fit the data.


def test_frames_beyond_every_clip_name_the_longest(root):
    with pytest.raises(
        ValueError, match=r"data.frames=64 is more .* 21 frames; use data.frames<=21"
    ):
        make_dataset(config_of(root, frames=64), 0, 0, 1, ENCODER)


def test_a_rate_that_no_clip_reaches_is_named(root):
    config = config_of(root, frames=20, max_fps=2.0)
    with pytest.raises(ValueError, match="none of the 10 clips .*data.max_fps=2 needs"):
        make_joint_source(config, 0)


def test_a_batch_that_does_not_split_is_refused(root):
    with pytest.raises(
        ValueError, match=r"images_per_batch = 12 does not divide among 5 processes"
    ):
        make_dataset(config_of(root), 0, 0, 5, ENCODER)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": 0}, "data.frames=0 is too small; use at least 1"),
        ({"height": 0}, "data.height=0 is too small; use at least 1"),
        ({"videos_per_batch": -1}, "data.videos_per_batch=-1 is too small; use at"),
        ({"num_threads": -1}, "data.num_threads=-1 is too small; use at least 0"),
        ({"source": "web"}, "data.source='web' is unknown; use one of"),
        ({"root": ""}, "data.root is empty, data.source='folder' needs a folder"),
        ({"source": "tfds"}, "data.tfds_videos is empty, data.videos_per_batch=8"),
        (
            {"videos_per_batch": 0, "images_per_batch": 0},
            "data.videos_per_batch=0 and data.images_per_batch=0 make an empty batch",
        ),
        ({"min_fps": 0.0}, "data.min_fps=0.0 is not a rate; use a value above 0"),
        ({"max_fps": 0.5}, "data.max_fps=0.5 is below data.min_fps=1.0; use"),
        ({"max_skipped_share": 2.0}, "data.max_skipped_share=2.0 is not a share"),
    ],
)
def test_invalid_settings_are_refused(root, changes, message):
    with pytest.raises(ValueError, match=message):
        config_of(**({"root": root} | changes))


def test_shapes_are_made_on_the_first_run(tmp_path, monkeypatch):
    asked, real = [], shapes.build

    def build(folder, size):
        asked.append((folder, size))
        return real(folder, videos=4, images=2, size=size)

    monkeypatch.setattr(shapes, "build", build)
    sources = make_sources(DataConfig(root=str(tmp_path), height=16, width=16))
    make_sources(DataConfig(root=str(tmp_path), height=47, width=34))
    assert set(asked) == {(tmp_path, 32), (tmp_path, 48)}
    sizes = {kind: len(each[0].source) for kind, each in sources.items()}
    assert sizes == {"video": 4, "image": 2}


@pytest.mark.skipif(not CLIPS.is_dir(), reason="the shared clips are missing")
def test_external_clips_and_broken_ones(tmp_path):
    lines = [
        {"file": str(path), "type": "video", "caption": path.stem}
        for path in sorted((CLIPS / "bad").resolve().glob("*.mp4"))
    ]
    (tmp_path / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    config = config_of(str(tmp_path), videos_per_batch=6, max_skipped_share=0.9)
    config = dataclasses.replace(config, images_per_batch=0, frames=16)
    joint = make_joint_source(config, 0, tmp_path / "skipped.jsonl")
    for batch in batches(split_dataset(joint, 0, 1, ENCODER), 2):
        assert (batch["resolution"] == [181, 321]).all()
    skipped = (tmp_path / "skipped.jsonl").read_text().splitlines()
    assert {
        Path(json.loads(x)["file"]).name: json.loads(x)["reason"] for x in skipped
    } == {
        "audio_only.mp4": "no video stream",
        "one_frame.mp4": "has 1 frame, data.frames=16 needs at least 16",
        "text_renamed.mp4": "not a video file",
        "truncated.mp4": "truncated file, holds only 18 of 64 frames",
        "zero_bytes.mp4": "empty file",
    }
