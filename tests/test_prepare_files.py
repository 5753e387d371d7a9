"""One file through preparation: what is rejected, and what is made of the rest."""

import io
from fractions import Fraction

import av
import numpy as np
import pytest
from preparing import config_of, line_of, moving, write_mp4

from snapvideo_jax.data import probe
from snapvideo_jax.data.prepare import Rules, Stage
from snapvideo_jax.data.prepare.encode import covering_size
from snapvideo_jax.data.prepare.files import Rejected, clip_ranges, prepare_file
from snapvideo_jax.data.records import encode_mp4
from snapvideo_jax.data.transforms import resize
from snapvideo_jax.data.video import Clip, decode_at


@pytest.mark.parametrize("frames", [1, 15, 16, 17, 32, 33, 250])
def test_clip_ranges_contain_all_frames_in_equal_parts(frames):
    ranges = clip_ranges(frames, 16)
    assert [i for first, end in ranges for i in range(first, end)] == [*range(frames)]
    lengths = [end - first for first, end in ranges]
    assert max(lengths) <= 16 and max(lengths) - min(lengths) <= 1
    assert len(ranges) == -(-frames // 16)


@pytest.mark.parametrize(
    ("size", "result"),
    [
        ((180, 320), (36, 64)),
        ((180, 640), (36, 128)),
        ((640, 320), (128, 64)),
        ((181, 321), (36, 64)),
        ((37, 65), (36, 64)),
        ((36, 64), (36, 64)),
        ((34, 64), None),
        ((36, 62), None),
    ],
)
def test_frames_just_cover_a_stage(size, result):
    assert covering_size(Stage(height=36, width=64), *size) == result


def prepare_one(data, entry=None, **changes):
    return prepare_file(config_of(**changes), entry or line_of("a.mp4"), data)


def test_a_clip_is_reduced_as_training_would_reduce_it():
    video, stages = moving(), {"base": Stage(height=16, width=24, crf=1)}
    (record,) = prepare_one(write_mp4(video), stages=stages).records["base"]
    times = np.arange(12) / 24
    found = decode_at(record["data"], times).astype(float)
    assert (record["height"], record["width"]) == found.shape[1:3] == (18, 24)
    expected = resize(video, 18, 24)
    assert np.abs(found - expected).mean() < 3
    # A frame earlier or later is further off.
    assert np.abs(found[1:] - expected[:-1]).mean() > 10


def test_uneven_times_are_preserved():
    ticks = [0, 20, 70, 190, 227, 300, 301, 400, 450, 451, 500, 600]
    data = write_mp4(moving(), ticks, Fraction(1, 600))
    (record,) = prepare_one(data).records["base"]
    with Clip(record["data"]) as clip:
        np.testing.assert_allclose(clip.times, np.array(ticks) / 600, atol=1e-9)
    assert record["fps"] == pytest.approx(11)


@pytest.mark.parametrize("rotation", [90, -90, 180])
def test_rotated_clips_are_stored_upright(rotation):
    video = moving()
    made = prepare_one(write_mp4(video, rotation=rotation))
    upright = np.rot90(video, rotation // 90, axes=(1, 2))
    assert made.facts.rotation == rotation // 90 % 4
    assert (made.facts.height, made.facts.width) == upright.shape[1:3]
    (record,) = made.records["base"]
    assert record["original_size"] == [*upright.shape[1:3]]
    found = decode_at(record["data"], np.arange(12) / 24).astype(float)
    expected = resize(np.ascontiguousarray(upright), *found.shape[1:3])
    assert np.abs(found - expected).mean() < 3


def test_parts_of_a_long_clip_are_named_by_their_frames():
    video = moving(40)
    parts = prepare_one(write_mp4(video)).records["large"]
    assert [(p["file"], p["first_frame"], p["frames"]) for p in parts] == [
        ("a.mp4#0-12", 0, 13),
        ("a.mp4#13-25", 13, 13),
        ("a.mp4#26-39", 26, 14),
    ]
    for part in parts:
        info = probe(part["data"])
        assert (info.frames, info.height, info.width) == (part["frames"], 34, 48)
        assert info.fps == pytest.approx(24)
        first = decode_at(part["data"], np.zeros(1)).astype(float)
        expected = resize(video[part["first_frame"]][None], 34, 48)
        assert np.abs(first - expected).mean() < 3


def test_a_record_has_the_fields_of_its_line_and_the_original_size():
    entry = line_of("a.mp4", aesthetic=5.5, captions=["x", "y"], width=9)
    (record,) = prepare_one(encode_mp4(moving(), fps=12), entry).records["base"]
    assert record.pop("data")
    assert record == entry | {
        "height": 18,
        "width": 24,
        "original_size": [40, 56],
        "first_frame": 0,
        "frames": 12,
        "fps": 12.0,
    }


def test_key_frames_are_where_the_stage_says():
    data = encode_mp4(moving(), fps=12)
    stages = {"base": Stage(height=16, width=24, gop=5)}
    (record,) = prepare_one(data, stages=stages).records["base"]
    with av.open(io.BytesIO(record["data"])) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    assert [p.is_keyframe for p in packets] == [n % 5 == 0 for n in range(12)]


@pytest.mark.parametrize(
    ("rules", "rule", "reason"),
    [
        (dict(min_frames=13), "min_frames", "frames is 12, rules.min_frames=13"),
        (dict(min_seconds=2), "min_seconds", "seconds is 0.916667, rules.min_sec"),
        (dict(max_seconds=0.5), "max_seconds", "rules.max_seconds=0.5"),
        (dict(min_fps=13), "min_fps", "fps is 12, rules.min_fps=13"),
        (dict(max_fps=10), "max_fps", "rules.max_fps=10"),
        (dict(min_height=41), "min_height", "height is 40, rules.min_height=41"),
        (dict(min_width=57), "min_width", "width is 56, rules.min_width=57"),
        (dict(min_aspect=1.5), "min_aspect", "aspect is 1.4, rules.min_aspect=1.5"),
        (dict(max_aspect=1.3), "max_aspect", "aspect is 1.4, rules.max_aspect=1.3"),
        (dict(max_megabytes=1e-3), "max_megabytes", "rules.max_megabytes=0.001"),
    ],
)
def test_every_rule_rejects_with_its_name_and_both_numbers(rules, rule, reason):
    data = encode_mp4(moving(), fps=12)
    assert prepare_one(data).records["base"]
    with pytest.raises(Rejected, match=reason) as caught:
        changed = Rules(**{"min_frames": 4} | rules)
        prepare_one(data, rules=changed, clip_frames=26)
    assert caught.value.rule == rule


@pytest.mark.parametrize(
    ("filters", "entry", "reason"),
    [
        ("score>=5", dict(score=4.5), "score is 4.5, wanted score>=5"),
        ("a>1, blur<=0.1", dict(a=2, blur=0.2), "blur is 0.2, wanted blur<=0.1"),
        ("score>=5", {}, "score is None, not a number, wanted score>=5"),
        ("score>=5", dict(score=float("nan")), "score is nan, wanted score>=5"),
    ],
)
def test_filters_can_reject_a_file(filters, entry, reason):
    with pytest.raises(Rejected, match=reason) as caught:
        prepare_one(b"is not looked at", line_of("a.mp4", **entry), filters=filters)
    assert str(caught.value).endswith(f"wanted {caught.value.rule}")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(source=""), "source is empty; set it to a folder with captions.jsonl"),
        (dict(stages={}), "stages is empty; name at least one"),
        (
            dict(stages={"shards": Stage()}),
            "stages.shards cannot be the name of a folder",
        ),
        (dict(stages={"temporary": Stage()}), "stages.temporary cannot be the name"),
        (dict(stages={"../x": Stage()}), "stages.../x cannot be the name of a folder"),
        (dict(clip_frames=7), "clip_frames=7 would cut .* use at least 8"),
        (dict(video_shards=0), "video_shards=0 is outside 1 to 99999"),
    ],
)
def test_invalid_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        config_of(**changes)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Stage(height=45), "height=45 is not an even number above 0.*use 46"),
        (lambda: Stage(crf=52), "crf=52 is outside 0 to 51"),
        (lambda: Stage(gop=0), "gop=0 is too small"),
        (lambda: Rules(min_frames=1), "min_frames=1 is too small; use at least 2"),
        (lambda: Rules(max_fps=-1.0), "rules.max_fps=-1.0 is below 0"),
        (lambda: Rules(min_fps=9, max_fps=8), "rules.min_fps=9 is above its max, 8"),
    ],
)
def test_invalid_stages_and_rules_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
