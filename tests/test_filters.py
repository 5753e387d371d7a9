"""Filters select files by their metadata."""

import json

import pytest
from mixing import ENCODER, config_of, media, parts, write_roots

from snapvideo_jax.data import (
    DataConfig,
    RecordSource,
    make_joint_source,
    split_dataset,
)
from snapvideo_jax.data.filters import parse
from snapvideo_jax.data.records import RecordWriter
from snapvideo_jax.data.sources import FolderSource


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """The folders ``film`` and ``web``."""
    return write_roots(tmp_path_factory.mktemp("mixture"))


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
        ("a>1, codec>h264", "'codec>h264', but 'h264' is not a number; texts .* by =="),
    ],
)
def test_a_malformed_rule_is_named(text, message):
    with pytest.raises(ValueError, match=message):
        DataConfig(filters=text)


def test_a_folder_is_filtered_by_the_constructor_and_counts_are_logged(roots, caplog):
    with caplog.at_level("INFO"):
        source = FolderSource(
            roots["film"], "video", filters=parse("score>=2, score<9", "")
        )
    names = [source[index].name for index in range(len(source))]
    assert names == ["2.mp4", "3.mp4", "4.mp4", "5.mp4"]
    assert "4 of 8 pass: score>=2 drops 2, score<9 drops 2" in caplog.text


def test_filters_that_no_file_passes_say_how_many_each_drops(roots):
    mixture = parts(roots, filters="score<3, size>1")
    with pytest.raises(
        ValueError,
        match=r"^data.mixture.film: data.filters keep none of 8 of the videos of "
        r"data.root='.*film': score<3 drops 5, size>1 drops 3 \(3 lack it\); loosen",
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
    """By their separate headers, or else when they are read."""
    if not listed:
        (records / "video.jsonl").unlink()
    path = tmp_path / "skipped.jsonl"
    joint = make_joint_source(record_config(records, filters="score>=4"), 0, path)
    iterator = iter(split_dataset(joint, 0, 1, ENCODER))
    samples = [int(x) for _ in range(8) for x in next(iterator).batch["sample"]]
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
    with pytest.raises(ValueError, match="9 headers in .* for 8 records; prepare"):
        RecordSource(records, "video", filters=parse("score>1", ""))


def test_captions_of_unlisted_samples_are_read_up_to_a_time_limit(records, caplog):
    (records / "video.jsonl").unlink()
    joint = make_joint_source(record_config(records), 0)
    with caplog.at_level("INFO"):
        assert sorted(joint.captions()) == [str(n) for n in range(8)]
        assert list(joint.captions(seconds=0)) == []
    assert "Checked the captions of 8 of 8 samples." in caplog.messages
    assert "Checked the captions of 0 of 8 samples." in caplog.messages
