"""`snapvideo prepare`: the same bytes from the same files, and nothing done twice."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import read_metrics, tiny_config
from preparing import config_of, line_of, moving

from snapvideo_jax import config as configs
from snapvideo_jax.data import DataConfig, RecordSource, decode_image, make_joint_source
from snapvideo_jax.data.prepare import Rules, Stage, config
from snapvideo_jax.data.records import encode_mp4, encode_png
from snapvideo_jax.data.transforms import resize

ROOT = Path(__file__).parents[1]
CLIPS = ROOT / "../shared/clips"
CONFIG = str(ROOT / "configs" / "prepare.py")


def write_list(root, *lines):
    (root / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))


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
    """The folder prepared from them in this process, and the result."""
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


# --- A folder ------------------------------------------------------------------------


@pytest.mark.slow
def test_the_output_can_be_read_as_records(prepared, source):
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


@pytest.mark.slow
def test_samples_have_the_resolution_of_the_original(prepared):
    out, _ = prepared
    batch = dict(frames=4, height=14, width=16, videos_per_batch=1, images_per_batch=1)
    joint = make_joint_source(
        DataConfig(source="records", root=str(out / "base"), **batch), seed=0
    )
    for sample in range(24):
        small = joint.sample_caption(sample)[0] == "small.mp4"
        resolution = joint[sample]["resolution"].tolist()
        assert resolution == ([20, 30] if small else [40, 56])


@pytest.mark.slow
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
        (
            'captions.jsonl: {"file": "nothing"}',
            "",
        ): "its line has type=None, wanted a string",
    }
    assert outcome.manifest["rejected"] == {
        "unusable": 3, "min_frames": 1, "missing": 2, "too_small": 1, "malformed": 1,
    }  # fmt: skip


@pytest.mark.slow
def test_the_manifest_counts_the_records(prepared):
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_killed_run_resumes_and_two_workers_write_the_same_bytes(source, tmp_path):
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
    summary = f"13 shards: {finished} finished before, {13 - finished} written."
    assert summary in second.stdout

    workers = ("--direct_num_workers=2", "--direct_running_mode=multi_processing")
    run = command(source, other, "--", *workers)
    assert subprocess.run(run, stderr=subprocess.DEVNULL).returncode == 0
    assert files_of(out) == files_of(other)


@pytest.mark.slow
def test_only_shards_whose_files_changed_are_rewritten(source, tmp_path):
    pipeline = pytest.importorskip("snapvideo_jax.data.prepare.pipeline")
    for name in ("0.mp4", "1.mp4", "2.mp4", "0.png"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    config, out = config_of(tmp_path, video_shards=40), tmp_path / "out"
    write_list(tmp_path, *map(line_of, ("0.mp4", "1.mp4", "2.mp4", "0.png")))
    assert pipeline.prepare(config, str(out), []).written == 42
    (tmp_path / "1.mp4").write_bytes(encode_mp4(moving(14), fps=12))
    write_list(tmp_path, *map(line_of, ("0.mp4", "1.mp4", "0.png")))
    assert pipeline.prepare(config, str(out), []).written == 2
    fresh = tmp_path / "fresh"
    pipeline.prepare(config, str(fresh), [])
    assert files_of(out) == files_of(fresh)


@pytest.mark.slow
@pytest.mark.skipif(not CLIPS.is_dir(), reason="the shared clips are missing")
def test_external_clips_and_broken_ones(tmp_path):
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
    built = config.build(configs.load(CONFIG, ["--config.source=gs://bucket/clips"]))
    assert built.source == "gs://bucket/clips"
    assert built.stages["upsampler"] == Stage(height=288, width=512)


@pytest.mark.slow
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
        (
            "no json\n",
            "captions.jsonl: no json: its line is not JSON .Expecting value",
        ),
        ('{"file": "a"}', "its line has type=None, wanted a string"),
        (
            '{"file": "a", "type": "video", "caption": "\\ud800"}',
            "its line holds text that is not UTF-8",
        ),
    ],
)
def test_a_list_with_a_malformed_first_line_is_refused(tmp_path, text, message):
    pipeline = pytest.importorskip("snapvideo_jax.data.prepare.pipeline")
    if text is not None:
        (tmp_path / "captions.jsonl").write_text(text)
    with pytest.raises(ValueError, match=message):
        pipeline.prepare(config_of(tmp_path), str(tmp_path / "out"), [])
    assert not (tmp_path / "out").exists()


def test_an_unusable_line_becomes_fields_that_say_why():
    pipeline = pytest.importorskip("snapvideo_jax.data.prepare.pipeline")
    line = b'{"file": "a", "type": "video", "caption": "x\xc2\x85y"}'
    expected = {"file": "a", "type": "video", "caption": "x\x85y"}
    assert list(pipeline.parsed(b"\xef\xbb\xbf" + line + b"\r")) == [expected]
    assert not list(pipeline.parsed(b" \r"))
    (entry,) = pipeline.parsed(line.replace(b"\xc2", b""))
    assert entry["malformed"] == "its line holds text that is not UTF-8"
