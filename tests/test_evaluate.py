"""Scoring from folders to numbers: what is read, resumed, compared and refused."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image
from test_distributed import end, environment, free_port

from snapvideo_jax.data.container import UnusableClip
from snapvideo_jax.evaluate import clips, features
from snapvideo_jax.evaluate.clips import Item, Selection
from snapvideo_jax.evaluate.nets import CLIP, NETWORKS, CLIPSizes
from snapvideo_jax.evaluate.results import read_result, read_statistics
from snapvideo_jax.evaluate.settings import Scoring
from snapvideo_jax.media import write_gif, write_mp4, write_png
from snapvideo_jax.sharding import MeshConfig, make_mesh

HERE = pathlib.Path(__file__).parent
FLAT = CLIPSizes(
    patch=112, width=16, layers=1, heads=2, text_width=16, text_layers=1, text_heads=2,
    vocabulary=600,
)  # fmt: skip
"""As CLIP, with few numbers: what it is called with and gives has the same shapes."""


def flat_clip():
    return dataclasses.replace(NETWORKS["clip"], module=lambda: CLIP(FLAT))


@pytest.fixture
def small_clip(monkeypatch):
    monkeypatch.setitem(NETWORKS, "clip", flat_clip())


def smooth_clip(seed, frames=16):
    """Colours that drift: survives compression, differs from clip to clip."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(256, size=(3, 4, 3), dtype=np.uint8)
    picture = coarse.repeat(8, 0).repeat(8, 1)
    return np.stack([np.roll(picture, i, 1) for i in range(frames)])


def folder_of(path, seeds, prompts=True):
    path.mkdir()
    for number, seed in enumerate(seeds):
        stem = path / f"{number:05d}"
        write_mp4(stem.with_suffix(".mp4"), smooth_clip(seed), fps=8)
        if prompts:
            about = json.dumps({"prompt": f"thing number {seed}"})
            stem.with_suffix(".json").write_text(about)
    return path


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Two folders of clips, the first with a damaged file too."""
    root = tmp_path_factory.mktemp("sets")
    generated = folder_of(root / "generated", range(6))
    (generated / "damaged.mp4").write_bytes(b"no video")
    (generated / "damaged.json").write_text('{"prompt": "lost"}')
    return generated, folder_of(root / "real", range(10, 15), prompts=False)


def arguments(generated, real, out, *more):
    found = ["evaluate", "--clips", generated, "--out", out, "--features", "random:0"]
    found += ["--batch", 2, "--shards", 3]
    return [*found, *(["--against", real] if real else []), *more]


# --- One pass -----------------------------------------------------------------------


def test_scores_of_a_folder_with_all_they_depend_on(run, small_clip, sets, tmp_path):
    generated, real = sets
    out = tmp_path / "out"
    code, printed, log = run(
        *arguments(generated, real, out, "--metrics", "clipsim,clip_fid")
    )
    assert code == 0, log
    result = read_result(out / "result.json")
    similarity, distance = (result["metrics"][m] for m in ("clipsim", "clip_fid"))
    assert -1 <= similarity["value"] <= 1 and similarity["n"] == 6
    assert distance["value"] > 0
    assert (distance["n"], distance["n_real"]) == (6 * 16, 5 * 16)
    assert distance["protocol"] == {
        "metric": "clip_fid",
        "network": "clip",
        "weights_sha256": "random:0",
        "preprocess": "openai",
        "frames": 16,
        "size": None,
        "view": "native",
        "image_frames": "all",
        "ddof": 1,
    }
    assert result["weights"]["clip"] == {"source": "random", "sha256": "random:0"}
    assert result["code"].keys() == {"snapvideo_jax", "jax"}
    # The damaged file is named, counted and passed over.
    assert result["skipped"] == [{"file": "damaged.mp4", "reason": "not a video file"}]
    assert "Skipping damaged.mp4: not a video file" in log
    assert "1 clips cannot be read" in printed
    # Random networks are marked, and too few samples are said.
    assert not result["comparable"] and "RANDOM FEATURES" in printed
    assert "96 generated samples for 512 channels" in printed


def test_clips_frames_and_captions_are_matched(run, small_clip, sets, tmp_path):
    """CLIPSIM of one clip at a time averages to that of all."""
    generated, _ = sets
    values = []
    for number in range(6):
        manifest = tmp_path / f"{number}.jsonl"
        video = str(generated / f"{number:05d}.mp4")
        line = {"index": 7, "prompt": f"thing number {number}", "video": video}
        manifest.write_text(json.dumps(line))
        out = tmp_path / f"out{number}"
        assert run(*arguments(manifest, None, out, "--metrics", "clipsim"))[0] == 0
        values.append(read_result(out / "result.json")["metrics"]["clipsim"]["value"])
    run(*arguments(generated, None, tmp_path / "all", "--metrics", "clipsim"))
    found = read_result(tmp_path / "all" / "result.json")["metrics"]["clipsim"]
    assert np.std(values) > 1e-4
    assert found["value"] == pytest.approx(np.mean(values), abs=1e-6)


def test_shards_change_nothing_and_are_resumed(run, small_clip, sets, tmp_path):
    generated, real = sets
    found = []
    for shards in (1, 3, 8):
        out = tmp_path / str(shards)
        command = arguments(generated, real, out, "--metrics", "clip_fid,clipsim")
        assert run(*command, "--shards", shards)[0] == 0
        found.append(read_result(out / "result.json")["metrics"])
    for metric in ("clip_fid", "clipsim"):
        values = [each[metric]["value"] for each in found]
        assert values == pytest.approx([values[0]] * 3, rel=1e-5)
    # What is missing is scored again, and nothing else.
    shards = sorted((out / "shards").iterdir())
    lost = shards.pop(1)
    lost.unlink()
    times = [path.stat().st_mtime_ns for path in shards]
    assert run(*command, "--shards", 8)[0] == 0
    assert lost.is_file() and times == [path.stat().st_mtime_ns for path in shards]
    again = read_result(out / "result.json")["metrics"]
    assert again == found[2]
    # Another question does not mix with these answers.
    code, _, log = run(*command, "--shards", 8, "--size", "24x32")
    assert code == 2 and "protocol.clip_fid.size=[24, 32] (was None)" in log
    lost.write_bytes(b"cut off")
    code, _, log = run(*command, "--shards", 8)
    assert code == 2 and f"{lost} is damaged" in log


def test_two_processes_find_what_one_does(run, small_clip, sets, tmp_path):
    """Each scores its shards on its own devices; process 0 merges them."""
    script = (
        "import sys, test_evaluate\n"
        "from snapvideo_jax.__main__ import main\n"
        "test_evaluate.NETWORKS['clip'] = test_evaluate.flat_clip()\n"
        "main()\n"
    )
    generated, real = sets
    metrics = ("--metrics", "clip_fid,clipsim")
    run(*arguments(generated, real, tmp_path / "one", *metrics))
    command = arguments(generated, real, tmp_path / "two", *metrics)
    where = {"SNAPVIDEO_COORDINATOR": f"localhost:{free_port()}"}
    where["SNAPVIDEO_PROCESS_COUNT"] = "2"
    processes = []
    for index in range(2):
        own = environment(8, SNAPVIDEO_PROCESS_INDEX=str(index), **where)
        own["PYTHONPATH"] += os.pathsep + str(HERE)
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", script, *map(str, command)],
                env=own,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    (code, printed, log), (other, silent, _) = end(processes)
    assert (code, other) == (0, 0), log
    assert "clip_fid" in printed and not silent
    one, two = (read_result(tmp_path / x / "result.json") for x in ("one", "two"))
    for metric in ("clip_fid", "clipsim"):
        expected = one["metrics"][metric]
        found = two["metrics"][metric]
        assert found["value"] == pytest.approx(expected["value"], rel=1e-6)
        assert found["n"] == expected["n"]
    assert two["skipped"] == one["skipped"]


def test_statistics_stand_in_for_the_real_clips(run, small_clip, sets, tmp_path):
    generated, real = sets
    one, two = tmp_path / "one", tmp_path / "two"
    metric = ("--metrics", "clip_fid")
    run(*arguments(generated, real, one, *metric))
    for statistics in (one / "real_statistics", one / "real_statistics/clip_fid.npz"):
        code, _, log = run(*arguments(generated, statistics, two, *metric))
        assert code == 0, log
        a, b = (read_result(x / "result.json")["metrics"] for x in (one, two))
        assert a == b
    held = read_statistics(one / "real_statistics" / "clip_fid.npz")
    assert held.n == 80 and held.protocol == a["clip_fid"]["protocol"]
    # Statistics of other settings are refused before anything is scored.
    three = tmp_path / "three"
    code, _, log = run(
        *arguments(generated, statistics, three, *metric, "--clip", "squash")
    )
    assert code == 2 and "preprocess is 'squash' and 'openai'" in log
    assert not three.exists()
    np.savez(tmp_path / "foreign.npz", mu=held.mean, sigma=held.covariance)
    foreign = tmp_path / "foreign.npz"
    code, printed, _ = run(*arguments(generated, foreign, tmp_path / "4", *metric))
    assert code == 0 and "do not tell how they were made" in printed
    np.savez(foreign, mu=held.mean[:9], sigma=held.covariance[:9, :9])
    code, _, log = run(*arguments(generated, foreign, three, *metric))
    assert code == 2 and "of 9 channels; clip_fid has 512" in log


def test_real_clips_alone_make_statistics(run, small_clip, sets, tmp_path):
    _, real = sets
    metric = ("--metrics", "clip_fid")
    code, printed, _ = run(*arguments(real, None, tmp_path / "out", *metric))
    assert code == 0 and "statistics only" in printed
    assert read_statistics(tmp_path / "out/statistics/clip_fid.npz").n == 80
    assert read_result(tmp_path / "out" / "result.json")["metrics"] == {}


def test_networks_of_video_in_full(run, monkeypatch, tmp_path):
    """I3D, C3D and Inception as they are, on one device to keep batches small."""
    mesh = make_mesh(MeshConfig(), 1, jax.devices()[:1])
    monkeypatch.setattr(features, "local_mesh", lambda: mesh)
    path = tmp_path / "clips.npz"
    np.savez(path, np.stack([smooth_clip(seed) for seed in range(2)]))
    code, printed, log = run(
        *arguments(path, path, tmp_path / "out", "--metrics", "fvd,fid,is"),
        *("--splits", 1, "--image_frames", "middle", "--shards", 1),
    )
    assert code == 0, log
    found = read_result(tmp_path / "out" / "result.json")["metrics"]
    # A set against itself: no distance, though covariances are not of full rank.
    for metric, width in (("fvd", 400), ("fid", 2048)):
        held = read_statistics(tmp_path / "out" / "statistics" / f"{metric}.npz")
        assert held.mean.shape == (width,) and np.trace(held.covariance) > 1e-3
        assert found[metric]["value"] <= 1e-4 * np.trace(held.covariance)
    assert 1 <= found["is"]["value"] <= 2
    assert found["is"]["value"] == pytest.approx(found["is"]["one_split"])
    assert "2 real samples for 400 channels" in printed


# --- Comparing ----------------------------------------------------------------------


def result_of(path, value=3.0, **protocol):
    fields = {"metric": "fvd", "weights_sha256": "ab", "preprocess": "tf"} | protocol
    about = {"clips": 5, "digest": "cd", "selection": {"frames": 16}}
    metric = {"value": value, "n": 5, "n_real": 7, "protocol": fields}
    metric |= {"generated": about, "real": about, "warnings": []}
    path.write_text(json.dumps({"comparable": True, "metrics": {"fvd": metric}}))
    return path


def test_like_results_stand_side_by_side(run, tmp_path):
    one, other = result_of(tmp_path / "a.json"), result_of(tmp_path / "b.json", 2.5)
    code, printed, _ = run("compare", one, other)
    assert code == 0
    assert printed.splitlines()[1].split() == ["fvd", "3", "2.5", "-0.5", "5"]


def test_unlike_results_are_refused_with_the_field(run, tmp_path):
    one = result_of(tmp_path / "a.json")
    other = result_of(tmp_path / "b.json", preprocess="videogpt")
    code, printed, log = run("compare", one, other)
    assert (code, printed) == (2, "")
    assert "fvd: preprocess is 'tf' and 'videogpt'" in log
    changed = json.loads(one.read_text())
    changed["metrics"]["fvd"]["n"] = 6
    other.write_text(json.dumps(changed))
    assert "n is 5 and 6" in run("compare", one, other)[2]
    changed["metrics"] = {"fid": changed["metrics"]["fvd"]}
    other.write_text(json.dumps(changed))
    assert "no metric is in both" in run("compare", one, other)[2]
    other.write_text('{"metrics": {"fvd": {}}}')
    assert "is no result of evaluate" in run("compare", one, other)[2]


# --- What is refused ----------------------------------------------------------------


@pytest.mark.parametrize(
    "more, message",
    [
        (["--metrics", "fvd,psnr"], "--metrics=fvd,psnr has to name some of"),
        (["--metrics", "fvd", "--frames", "8"], "takes at least 9 frames"),
        (["--metrics", "is", "--frames", "17"], "takes exactly 16 frames"),
        (["--fvd", "magic"], "use one of stylegan-v, tf, videogpt"),
        (["--metrics", "fid", "--image_frames", "17"], "a number of 1 to 16"),
        (["--size", "64"], "use HEIGHTxWIDTH"),
        (["--batch", "0"], "--batch=0 is too small"),
        (["--features", "random:x"], "use random:SEED"),
        (["--weights", "nets"], "Give --weights DIR"),
        (["--metrics", "is", "--splits", "10"], "do not fill 10 splits"),
        (["--against", "nowhere"], "nowhere is no folder, manifest"),
    ],
)
def test_options_that_make_no_sense(run, sets, tmp_path, more, message):
    code, _, log = run(*arguments(sets[0], None, tmp_path / "out", *more))
    assert code == 2 and message in log


def test_too_few_clips_and_missing_prompts(run, sets, tmp_path):
    one = folder_of(tmp_path / "one", [1], prompts=False)
    code, _, log = run(*arguments(one, sets[1], tmp_path / "out", "--metrics", "fvd"))
    assert code == 2 and "has 1 clip, of which there is no covariance" in log
    code, _, log = run(*arguments(one, None, tmp_path / "out", "--metrics", "clipsim"))
    assert code == 2 and "1 of 1 have none, as 00000.mp4" in log


def test_a_folder_without_any_clip_that_can_be_read(run, small_clip, tmp_path):
    (tmp_path / "clips").mkdir()
    for number in range(3):
        (tmp_path / "clips" / f"{number}.mp4").write_bytes(b"nothing")
    code, _, log = run(
        *arguments(tmp_path / "clips", None, tmp_path / "out", "--metrics", "clip_fid")
    )
    assert code == 2 and "None of the 3 generated clips can be scored" in log
    assert "0.mp4: not a video file" in log


def test_missing_weights_say_what_makes_them(run, sets, tmp_path):
    command = ["evaluate", "--clips", sets[0], "--out", tmp_path / "out"]
    code, _, log = run(*command, "--weights", tmp_path, "--metrics", "fvd,is")
    assert code == 2 and "lacks i3d.safetensors, c3d.safetensors" in log
    assert "snapvideo convert --network c3d --weights FILE --out" in log


def test_a_selfcheck_without_weights_has_not_passed(run, tmp_path):
    command = ["evaluate", "--selfcheck", "--weights", tmp_path, "--anchors", tmp_path]
    code, printed, _ = run(*command)
    assert code == 1 and "0 passed, 0 FAILED, 9 not run" in printed
    assert f"lacks {tmp_path}/i3d.safetensors (make it: snapvideo convert" in printed
    assert f"{tmp_path}/elefant.jpg" in printed


# --- Clips --------------------------------------------------------------------------


def test_every_kind_of_clip_is_found_and_read(tmp_path):
    clip = smooth_clip(3)
    write_mp4(tmp_path / "a.mp4", clip, fps=8)
    write_gif(tmp_path / "b.gif", clip, fps=8)
    write_png(tmp_path / "c.png", clip)
    np.savez(tmp_path / "d.npz", np.stack([clip, clip[::-1]]))
    np.savez(tmp_path / "e.npz", clip)
    write_gif(tmp_path / "sheet.gif", clip, fps=8)  # of all clips, and none itself
    (tmp_path / "nested" / "f").mkdir(parents=True)
    for number, frame in enumerate(clip):
        Image.fromarray(frame).save(tmp_path / "nested" / "f" / f"{number:03d}.png")
    items = clips.find(tmp_path)
    names = ["a.mp4", "b.gif", "c.png", "d.npz[0]", "d.npz[1]", "e.npz", "nested/f"]
    assert [item.name for item in items] == names
    for item in items:
        frames = clips.read(item, Selection())
        expected = clip[::-1] if item.name == "d.npz[1]" else clip
        assert frames.shape == clip.shape
        apart = np.abs(frames.astype(int) - expected).mean()
        assert apart < (20 if item.name == "a.mp4" else 1e-6), item.name


def test_the_format_that_keeps_most_is_read_once(tmp_path):
    for suffix, write in ((".mp4", write_mp4), (".gif", write_gif)):
        write(tmp_path / f"x{suffix}", smooth_clip(0), fps=8)
    write_png(tmp_path / "x.png", smooth_clip(0))
    assert [item.name for item in clips.find(tmp_path)] == ["x.png"]


def test_a_manifest_gives_order_and_prompts(tmp_path):
    lines = [
        {"index": 1, "video": "b.mp4", "prompt": "b", "class": "B", "seed": 4},
        {"index": 0, "video": "sub/a.mp4", "prompt": "a"},
    ]
    path = tmp_path / "manifest.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    items = clips.find(tmp_path)
    assert [(item.name, item.prompt) for item in items] == [
        ("sub/a.mp4", "a"),
        ("b.mp4", "b"),
    ]
    assert items[0].path == tmp_path / "sub" / "a.mp4"
    for line, message in (
        ("{", "line 1 is not JSON"),
        ('{"video": "a.mp4"}', "index=None"),
        ('{"index": 0}', "have to be texts"),
        ("", "lists no clips"),
        ('{"index": 0, "video": "a"}\n' * 2, "line 2 has index=0 again"),
    ):
        path.write_text(line)
        with pytest.raises(ValueError, match=message):
            clips.find(path)


@pytest.mark.parametrize(
    "selection, first",
    [
        (Selection(4), 0),
        (Selection(4, position="center"), 6),
        (Selection(16, position="center"), 0),
        (Selection(4, fps=4.0), 0),
    ],
)
def test_frames_are_taken_where_they_are_asked_for(tmp_path, selection, first):
    frames = np.repeat(np.arange(16, dtype=np.uint8)[:, None, None, None] * 16, 3, 3)
    frames = frames.repeat(16, 1).repeat(16, 2)
    write_mp4(tmp_path / "a.mp4", frames, fps=8)
    found = clips.read(Item("a", tmp_path / "a.mp4"), selection)
    step = 1 if selection.fps is None else 2
    places = first + step * np.arange(selection.frames)
    np.testing.assert_allclose(found[:, 8, 8, 0] / 16, places, atol=0.3)


def test_random_frames_depend_on_the_seed_and_the_clip():
    frames = (
        np.zeros((100, 2, 2, 3), np.uint8)
        + np.arange(100, dtype=np.uint8)[:, None, None, None]
    )

    def first(seed, name):
        return clips._pick(frames, Selection(4, position="random", seed=seed), name)

    starts = {int(first(0, str(name))[0, 0, 0, 0]) for name in range(200)}
    assert min(starts) < 8 and max(starts) > 88 and len(starts) > 60
    np.testing.assert_array_equal(first(0, "a"), first(0, "a"))
    assert {int(first(seed, "a")[0, 0, 0, 0]) for seed in range(9)} > {
        int(first(0, "a")[0, 0, 0, 0])
    }


@pytest.mark.parametrize(
    "name, make, reason",
    [
        ("a.mp4", lambda p: write_mp4(p, smooth_clip(0, 5), 8), "has 5 frames, fewer"),
        ("a.png", lambda p: Image.new("RGB", (70, 9)).save(p), "no 16 frames side by"),
        ("a.png", lambda p: Image.new("RGB", (160, 160)).save(p), "no 16 frames side"),
        ("a.npz", lambda p: np.savez(p, np.zeros((20, 4, 4, 3))), "wanted uint8"),
        ("a.npz", lambda p: np.savez(p, a=np.zeros(1), b=np.zeros(1)), "wanted one ar"),
        ("a.npz", lambda p: p.write_bytes(b"PK"), "unreadable array"),
        ("gone.mp4", lambda p: None, "unreadable file"),
    ],
)
def test_clips_that_cannot_be_used_say_why(tmp_path, name, make, reason):
    make(tmp_path / name)
    with pytest.raises(UnusableClip, match=reason):
        clips.read(Item(name, tmp_path / name), Selection())


def test_views_and_sizes():
    frames = np.zeros((2, 18, 32, 3), np.uint8)
    frames[:, :, 7:25] = 255
    square = clips.fitted(frames, "square", None)
    assert square.shape == (2, 18, 18, 3) and square.min() == 255
    assert clips.fitted(frames, "native", (36, 64)).shape == (2, 36, 64, 3)


def test_frames_for_pictures_are_spread_evenly():
    places = {
        asked: Scoring(("fid",), image_frames=asked).image_places()
        for asked in ("all", "middle", "1", "4")
    }
    assert places["all"] == tuple(range(16))
    assert places["middle"] == places["1"] == (8,)
    assert places["4"] == (2, 6, 10, 14)
