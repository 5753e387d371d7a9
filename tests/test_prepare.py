"""`snapvideo prepare`: the same bytes from the same files, and nothing done twice."""

import io
import json
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from helpers import read_metrics, tiny_config

from snapvideo_jax import config as configs
from snapvideo_jax import prepare as verb
from snapvideo_jax.data import RecordSource, probe
from snapvideo_jax.data.prepare import PrepareConfig, Rules, Stage
from snapvideo_jax.data.prepare.encode import covering
from snapvideo_jax.data.prepare.files import Rejected, cut, prepare_file
from snapvideo_jax.data.records import encode_mp4, encode_png
from snapvideo_jax.data.transforms import resize
from snapvideo_jax.data.video import Clip, decode_at, decode_image

ROOT = Path(__file__).parents[1]
CLIPS = ROOT / "../shared/clips"
CONFIG = str(ROOT / "configs" / "prepare.py")
STAGES = {"base": Stage(height=16, width=24), "large": Stage(height=32, width=48)}


def config_of(source="unused", **changes):
    """Two stages, 4 + 2 shards, clips of at most 16 frames."""
    fields = dict(source=str(source), stages=STAGES, rules=Rules(min_frames=4))
    fields |= dict(clip_frames=16, video_shards=4, image_shards=2)
    return PrepareConfig(**fields | changes)


def moving(frames=12, height=40, width=56, seed=0):
    """Smooth waves that move to the right; grey, as 4:2:0 keeps half of the colours."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 7 + y / 9 - t / 3 + seed) for t in range(frames)]
    grey = (127 + 100 * np.stack(waves)).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=3)


def write_mp4(video, ticks=None, base=Fraction(1, 24), rotation=0):
    """An MP4 whose frames are shown at ``ticks`` of ``base`` seconds."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=24, options={"crf": "4"})
        stream.height, stream.width = video.shape[1:3]
        stream.pix_fmt, stream.codec_context.time_base = "yuv420p", base
        stream.time_base = base
        if rotation:
            stream.set_display_rotation(rotation)
        for number, rgb in enumerate(video):
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            frame.pts, frame.time_base = (ticks or range(99))[number], base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


def write_list(root, *lines):
    (root / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))


def line_of(file, **fields):
    kind = "image" if file.endswith(".png") else "video"
    return {"file": file, "type": kind, "caption": f"about {file}"} | fields


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """10 clips, one too small for the large stage, one too long for a single clip; 3
    pictures; and files that cannot be used."""
    root = tmp_path_factory.mktemp("source")
    content = {f"{n}.mp4": encode_mp4(moving(seed=n), fps=12) for n in range(8)}
    content["long.mp4"] = encode_mp4(moving(40), fps=24)
    content["small.mp4"] = encode_mp4(moving(height=20, width=30), fps=8)
    content |= {f"{n}.png": encode_png(moving(seed=n)[0]) for n in range(3)}
    content["empty.mp4"], content["text.mp4"] = b"", b"not a film"
    content["short.mp4"] = encode_mp4(moving(3), fps=12)
    content["text.png"] = b"not a picture"
    for name, data in content.items():
        (root / name).write_bytes(data)
    (root / "folder.mp4").mkdir()
    content |= {"folder.mp4": None, "lost.mp4": None}
    write_list(root, *map(line_of, content), {"file": "nothing"})
    return root


@pytest.fixture(scope="module")
def prepared(source, tmp_path_factory):
    """The folder made of them in this process, and what the run told."""
    pytest.importorskip("apache_beam")
    from snapvideo_jax.data.prepare.pipeline import prepare

    out = tmp_path_factory.mktemp("prepared") / "out"
    return out, prepare(config_of(source), str(out), [])


def files_of(out):
    """Content of all files of a folder, by name."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }


def rejections(out):
    lines = map(json.loads, (out / "rejected.jsonl").read_text().splitlines())
    return {(line["file"], line["stage"]): line["reason"] for line in lines}


# --- One file ------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [1, 15, 16, 17, 32, 33, 250])
def test_a_cut_leaves_out_no_frame_and_makes_equal_parts(frames):
    ranges = cut(frames, 16)
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
    assert covering(Stage(height=36, width=64), *size) == result


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


def test_uneven_times_are_kept():
    ticks = [0, 20, 70, 190, 227, 300, 301, 400, 450, 451, 500, 600]
    data = write_mp4(moving(), ticks, Fraction(1, 600))
    (record,) = prepare_one(data).records["base"]
    with Clip(record["data"]) as clip:
        np.testing.assert_allclose(clip.times, np.array(ticks) / 600, atol=1e-9)
    assert record["fps"] == pytest.approx(11)


@pytest.mark.parametrize("rotation", [90, -90, 180])
def test_rotated_clips_are_made_upright(rotation):
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


def test_a_record_keeps_its_line_and_tells_the_size_of_the_original():
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
    ("changes", "entry", "reason"),
    [
        (dict(at_least={"score": 5}), dict(score=4.5), "score is 4.5, at_least has 5"),
        (dict(at_most={"blur": 0.1}), dict(blur=0.2), "blur is 0.2, at_most has 0.1"),
        (dict(at_least={"score": 5}), {}, "score is None, not a number"),
        (dict(at_least={"s": 5}), dict(s=float("nan")), "s is nan, at_least has 5"),
    ],
)
def test_numbers_in_the_list_can_reject_a_file(changes, entry, reason):
    with pytest.raises(Rejected, match=reason) as caught:
        prepare_one(b"is not looked at", line_of("a.mp4", **entry), **changes)
    assert caught.value.rule.startswith(("at_least.", "at_most."))


# --- A folder ------------------------------------------------------------------------


def test_what_is_made_can_be_read_as_records(prepared, source):
    out, _ = prepared
    clips = RecordSource(out / "base", "video")
    samples = [clips[index] for index in range(len(clips))]
    names = {f"{n}.mp4" for n in range(8)} | {"small.mp4"}
    names |= {"long.mp4#0-12", "long.mp4#13-25", "long.mp4#26-39"}
    assert len(samples) == len(names) and {s.name for s in samples} == names
    for sample in samples:
        assert sample.caption == f"about {sample.name.partition('#')[0]}"
        small = sample.name == "small.mp4"
        assert sample.resolution == ((20, 30) if small else (40, 56))
    assert len(RecordSource(out / "large", "video")) == len(names) - 1
    pictures = RecordSource(out / "base", "image")
    for index in range(3):
        name, data = pictures[index].name, pictures[index].data
        original = decode_image((source / name).read_bytes())
        np.testing.assert_array_equal(
            decode_image(data), resize(original[None], 18, 24)[0]
        )


def test_files_that_cannot_be_used_are_listed_with_reasons(prepared):
    out, outcome = prepared
    assert rejections(out) == {
        ("empty.mp4", ""): "empty file",
        ("text.mp4", ""): "not a video file",
        ("short.mp4", ""): "frames is 3, rules.min_frames=4",
        ("lost.mp4", ""): "no such file",
        ("folder.mp4", ""): "is a folder",
        ("text.png", ""): "not a readable image (of no known format)",
        ("small.mp4", "large"): "20x30 pixels do not cover stages.large of 32x48",
        ('captions.jsonl: {"file": "nothing"}', ""): "its line has no text 'type'",
    }
    assert outcome.manifest["rejected"] == {
        "unusable": 3, "min_frames": 1, "missing": 2, "too_small": 1, "malformed": 1,
    }  # fmt: skip


def test_the_manifest_counts_what_was_made(prepared):
    out, outcome = prepared
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest == outcome.manifest
    seconds = 8 * 11 / 12 + 12 / 24 + 12 / 24 + 13 / 24 + 11 / 8
    base = manifest["stages"]["base"]["video"]
    assert (base["records"], base["frames"]) == (12, 9 * 12 + 40)
    assert base["hours"] == pytest.approx(seconds / 3600, abs=1e-6)
    assert manifest["stages"]["large"]["image"]["records"] == 3
    assert manifest["source"]["video"] == {
        "files": 10,
        "codec": {"h264": 10},
        "fps": {"12": 8, "24": 1, "8": 1},
        "resolution": {"56x40": 9, "30x20": 1},
        "seconds": {"0 or more": 8, "1 or more": 2},
    }
    held = files_of(out)
    for name, content in manifest["files"].items():
        assert len(held[name]) == content["bytes"]


def test_a_prepared_folder_trains(prepared, tmp_path):
    from snapvideo_jax import train

    out, _ = prepared
    train.train(tiny_config(out / "base"), tmp_path / "run")
    assert read_metrics(tmp_path / "run")[-1]["step"] == 12
    assert not (tmp_path / "run" / "skipped.jsonl").exists()


def command(source, out, *options):
    return [
        *(sys.executable, "-m", "snapvideo_jax", "prepare", "--config", CONFIG),
        *(f"--config.source={source}", "--out", str(out)),
        *("--config.rules.min_frames=4", "--config.clip_frames=16"),
        *("--config.video_shards=12", "--config.image_shards=1"),
        *("--config.stages.base.height=16", "--config.stages.base.width=24"),
        *("--config.stages.upsampler.height=32", "--config.stages.upsampler.width=48"),
        *options,
    ]


def test_a_killed_run_goes_on_and_two_workers_make_the_same_bytes(source, tmp_path):
    pytest.importorskip("apache_beam")
    out, other = tmp_path / "out", tmp_path / "other"
    killed = subprocess.Popen(command(source, out), stderr=subprocess.DEVNULL)
    while not any(out.glob("shards/*.json")) and killed.poll() is None:
        time.sleep(0.002)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    finished = len(list(out.glob("shards/*.json")))
    assert 1 <= finished < 13 and not (out / "manifest.json").exists()

    second = subprocess.run(command(source, out), capture_output=True, text=True)
    assert second.returncode == 0, second.stderr
    told = f"13 shards: {finished} kept, finished before; {13 - finished} made."
    assert told in second.stdout

    workers = ("--direct_num_workers=2", "--direct_running_mode=multi_processing")
    run = command(source, other, "--", *workers)
    assert subprocess.run(run, stderr=subprocess.DEVNULL).returncode == 0
    assert files_of(out) == files_of(other)


def test_only_shards_whose_files_changed_are_made_again(source, tmp_path):
    pipeline = pytest.importorskip("snapvideo_jax.data.prepare.pipeline")
    for name in ("0.mp4", "1.mp4", "2.mp4", "0.png"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    config, out = config_of(tmp_path, video_shards=40), tmp_path / "out"
    write_list(tmp_path, *map(line_of, ("0.mp4", "1.mp4", "2.mp4", "0.png")))
    assert pipeline.prepare(config, str(out), []).made == 42
    (tmp_path / "1.mp4").write_bytes(encode_mp4(moving(14), fps=12))
    write_list(tmp_path, *map(line_of, ("0.mp4", "1.mp4", "0.png")))
    outcome = pipeline.prepare(config, str(out), [])
    assert outcome.made == 2
    fresh = tmp_path / "fresh"
    pipeline.prepare(config, str(fresh), [])
    assert files_of(out) == files_of(fresh)


@pytest.mark.skipif(not CLIPS.is_dir(), reason="no clips at hand")
def test_clips_from_elsewhere_and_their_broken_companions(tmp_path):
    pipeline = pytest.importorskip("snapvideo_jax.data.prepare.pipeline")
    folder = CLIPS.resolve()
    listed = (folder / "captions.jsonl").read_text(encoding="utf-8").splitlines()
    lines = [json.loads(line) for line in listed[::4]]
    clips = sum(line["type"] == "video" for line in lines)
    for line in lines:
        line["file"] = str(folder / line["file"])
    lines += [line_of(str(path)) for path in sorted((folder / "bad").glob("*.mp4"))]
    write_list(tmp_path, *lines)
    stages = {"base": Stage(height=46, width=80)}
    config = config_of(tmp_path, stages=stages, rules=Rules(), clip_frames=240)
    outcome = pipeline.prepare(config, str(tmp_path / "out"), [])
    found = rejections(tmp_path / "out")
    assert {Path(file).name: reason for (file, _), reason in found.items()} == {
        "audio_only.mp4": "no video stream",
        "one_frame.mp4": "frames is 1, rules.min_frames=16",
        "text_renamed.mp4": "not a video file",
        "truncated.mp4": "truncated file, holds only 18 of 64 frames",
        "zero_bytes.mp4": "empty file",
    }
    # The sixth is of uneven rate and odd size, and can be used.
    assert outcome.manifest["source"]["video"]["resolution"]["321x181"] == 1
    base = outcome.manifest["stages"]["base"]
    assert base["video"]["records"] == clips + 1 == 41
    assert base["image"]["records"] == 15


# --- What is refused -----------------------------------------------------------------


def test_the_shipped_config_builds():
    config = verb.build(configs.load(CONFIG, ["--config.source=gs://bucket/clips"]))
    assert config.source == "gs://bucket/clips"
    assert config.stages["upsampler"] == Stage(height=288, width=512)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(source=""), "source is empty; set it to a folder with captions.jsonl"),
        (dict(stages={}), "stages is empty; name at least one"),
        (dict(stages={"shards": Stage()}), "stages.shards cannot name a folder"),
        (dict(stages={"temporary": Stage()}), "stages.temporary cannot name a"),
        (dict(stages={"../x": Stage()}), "stages.../x cannot name a folder"),
        (dict(clip_frames=7), "clip_frames=7 would cut .* use at least 8"),
        (dict(video_shards=0), "video_shards=0 is outside 1 to 99999"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, message):
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
def test_stages_and_rules_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_other_settings_than_those_of_the_folder_are_refused(prepared, source):
    from snapvideo_jax.data.prepare.pipeline import prepare

    out, _ = prepared
    before = files_of(out)
    changed = config_of(source, rules=Rules(min_frames=5), clip_frames=15)
    with pytest.raises(
        ValueError,
        match=r"other settings: clip_frames=15 \(was 16\), rules.min_frames=5 \(was 4",
    ):
        prepare(changed, str(out), [])
    assert files_of(out) == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "has no captions.jsonl; write one with a line"),
        ("\n\n", "has an empty captions.jsonl; nothing to prepare"),
        ("no json\n", "captions.jsonl: no json: its line Expecting value"),
        ('{"file": "a"}', "its line has no text 'type'"),
        (
            '{"file": "a", "type": "video", "caption": "\\ud800"}',
            "its line 'utf-8' codec can't encode",
        ),
    ],
)
def test_a_list_that_begins_badly_is_refused(tmp_path, text, message):
    pipeline = pytest.importorskip("snapvideo_jax.data.prepare.pipeline")
    if text is not None:
        (tmp_path / "captions.jsonl").write_text(text)
    with pytest.raises(ValueError, match=message):
        pipeline.prepare(config_of(tmp_path), str(tmp_path / "out"), [])
    assert not (tmp_path / "out").exists()
