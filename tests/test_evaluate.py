"""`evaluate` and `compare`: scoring folders, resuming, comparing, refusals."""

import gzip
import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from helpers import assert_one_line
from metric_files import flat_clip, foreign, smooth_clip
from PIL import Image
from processes import end, environment, free_port
from safetensors.numpy import save_file

from snapvideo_jax.__main__ import _parser
from snapvideo_jax.cli.options import options
from snapvideo_jax.evaluation import features
from snapvideo_jax.evaluation.evaluate import evaluate
from snapvideo_jax.evaluation.nets import NETWORKS
from snapvideo_jax.evaluation.protocols.generate import GenerateOptions
from snapvideo_jax.evaluation.protocols.score import ScoreOptions
from snapvideo_jax.evaluation.results import (
    frechet_result,
    read_result,
    read_statistics,
)
from snapvideo_jax.evaluation.settings import EvaluateOptions
from snapvideo_jax.evaluation.shapes import JudgeOptions
from snapvideo_jax.evaluation.weights.convert import convert
from snapvideo_jax.io.files import sha256_of
from snapvideo_jax.io.media import write_mp4
from snapvideo_jax.parallel.sharding import MeshConfig, make_mesh

HERE = pathlib.Path(__file__).parent
RANDOM = {"features": "random:0"}


@pytest.fixture
def selfcheck(monkeypatch):
    """The script's function, which prints a line for each anchor."""
    monkeypatch.syspath_prepend(HERE.parent / "benchmarks")
    return pytest.importorskip("selfcheck").selfcheck


@pytest.fixture
def small_clip(monkeypatch):
    monkeypatch.setitem(NETWORKS, "clip", flat_clip())


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


def test_a_result_has_scores_and_their_provenance(run, small_clip, sets, tmp_path):
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
    # The damaged file is named, counted and skipped.
    assert result["skipped"] == [{"file": "damaged.mp4", "reason": "not a video file"}]
    assert "Skipping damaged.mp4: not a video file" in log
    assert "1 clips cannot be read" in printed
    # Random networks and too few samples are reported.
    assert not result["comparable"] and "RANDOM FEATURES" in printed
    assert "96 generated samples for 512 channels" in printed


def test_from_python_evaluate_returns_the_result(small_clip, sets, tmp_path):
    asked = EvaluateOptions(
        clips=sets[0], out=tmp_path, metrics=("clipsim",), batch=2, **RANDOM
    )
    assert evaluate(asked) == read_result(tmp_path / "result.json")


@pytest.mark.parametrize(
    "kind, verb, required",
    [
        (EvaluateOptions, ["evaluate"], {"clips": "a", "out": "b", **RANDOM}),
        (ScoreOptions, ["protocol", "score"], {"samples": "a", "out": "b", **RANDOM}),
        (GenerateOptions, ["protocol", "generate", "x"], {"workdir": "a", "out": "b"}),
        (JudgeOptions, ["judge"], {"workdir": "a", "out": "b"}),
    ],
)
def test_defaults_of_options_equal_the_command_lines(kind, verb, required):
    words = [word for name, value in required.items() for word in (f"--{name}", value)]
    parsed = options(kind, _parser().parse_args([*verb, *words]))
    paths = {k: v if k == "features" else pathlib.Path(v) for k, v in required.items()}
    assert parsed == kind(**paths, **({"name": "x"} if "x" in verb else {}))


def test_clipsim_pairs_every_clip_with_its_caption(run, small_clip, sets, tmp_path):
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


def test_the_number_of_shards_does_not_change_scores_and_shards_resume(
    run, small_clip, sets, tmp_path
):
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
    # Only the missing shard is scored again.
    shards = sorted((out / "shards").iterdir())
    lost = shards.pop(1)
    lost.unlink()
    times = [path.stat().st_mtime_ns for path in shards]
    assert run(*command, "--shards", 8)[0] == 0
    assert lost.is_file() and times == [path.stat().st_mtime_ns for path in shards]
    again = read_result(out / "result.json")["metrics"]
    assert again == found[2]
    # Other settings are refused in the same folder.
    code, _, log = run(*command, "--shards", 8, "--size", "24x32")
    assert code == 2 and "protocol.clip_fid.size=[24, 32] (was None)" in log
    lost.write_bytes(lost.read_bytes()[:-40])
    code, _, log = run(*command, "--shards", 8)
    assert code == 2 and f"{lost} is damaged" in log


@pytest.mark.slow
def test_two_processes_give_the_result_of_one(run, small_clip, sets, tmp_path):
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


def test_saved_statistics_replace_the_real_clips(run, small_clip, sets, tmp_path):
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
    assert code == 0 and "do not record their settings" in printed
    np.savez(foreign, mu=held.mean[:9], sigma=held.covariance[:9, :9])
    code, _, log = run(*arguments(generated, foreign, three, *metric))
    assert code == 2 and "of 9 channels; clip_fid has 512" in log


def test_without_real_clips_only_statistics_are_written(
    run, small_clip, sets, tmp_path
):
    _, real = sets
    metric = ("--metrics", "clip_fid")
    code, printed, _ = run(*arguments(real, None, tmp_path / "out", *metric))
    assert code == 0 and "statistics only" in printed
    assert read_statistics(tmp_path / "out/statistics/clip_fid.npz").n == 80
    assert read_result(tmp_path / "out" / "result.json")["metrics"] == {}


def test_i3d_c3d_and_inception_at_full_size(run, monkeypatch, tmp_path):
    """On one device, so that batches stay small."""
    mesh = make_mesh(MeshConfig(), 1, jax.devices()[:1])
    monkeypatch.setattr(features, "local_mesh", lambda: mesh)
    path = tmp_path / "clips.npz"
    np.savez(path, np.stack([smooth_clip(seed) for seed in range(2)]))
    out = tmp_path / "out"
    code, printed, log = run(
        *arguments(path, None, out, "--metrics", "fvd,fid,is", "--splits", 1),
        *("--image_frames", "middle", "--shards", 1),
    )
    assert code == 0, log
    found = read_result(out / "result.json")["metrics"]
    assert 1 <= found["is"]["value"] <= 2
    assert found["is"]["value"] == pytest.approx(found["is"]["one_split"])
    for metric, width in (("fvd", 400), ("fid", 2048)):
        held = read_statistics(out / "statistics" / f"{metric}.npz")
        assert held.mean.shape == (width,) and np.trace(held.covariance) > 1e-3
        assert f"{metric:<9}statistics only" in printed
    # The distance of a set to itself is 0, also with rank-deficient covariances.
    held = read_statistics(out / "statistics" / "fvd.npz")
    distance = frechet_result(held, held, "fvd")
    assert distance["value"] <= 1e-4 * np.trace(held.covariance)
    assert "2 real samples for 400 channels" in distance["warnings"][1]


# --- With weights -------------------------------------------------------------------


@pytest.fixture
def weights(tmp_path, small_clip):
    """A folder with CLIP, converted from random tensors, and a tokenizer."""
    source = tmp_path / "model.safetensors"
    save_file(foreign("clip", "Hugging Face"), source)
    convert("clip", source, tmp_path / "nets" / "clip.safetensors", quick_gelu=True)
    merges = gzip.compress(b"version\nt h\n")
    (tmp_path / "nets" / "bpe_simple_vocab_16e6.txt.gz").write_bytes(merges)
    return tmp_path / "nets"


def test_converted_weights_are_named_by_their_source(run, weights, sets, tmp_path):
    command = ["evaluate", "--clips", sets[0], "--out", tmp_path / "out"]
    command += ["--weights", weights, "--metrics", "clipsim", "--batch", 2]
    code, printed, log = run(*command)
    assert code == 0 and "RANDOM" not in printed, log
    result = read_result(tmp_path / "out" / "result.json")
    sha256 = sha256_of(tmp_path / "model.safetensors")
    assert result["comparable"]
    assert result["weights"]["clip"]["source"] == "model.safetensors"
    assert result["metrics"]["clipsim"]["protocol"]["weights_sha256"] == sha256
    code, _, log = run(*command[:-2], "--metrics", "fvd")
    assert code == 2 and "lacks i3d.safetensors" in log


def test_a_selfcheck_compares_with_published_values(
    selfcheck, weights, tmp_path, capsys
):
    rng = np.random.default_rng(0)
    picture = rng.integers(256, size=(50, 70, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "CLIP.png")
    assert not selfcheck(weights, tmp_path)
    printed = capsys.readouterr().out
    assert "0 passed, 1 FAILED, 8 not run" in printed
    (line,) = [x for x in printed.splitlines() if x.startswith("FAILED")]
    found = line.split("clip-diagram")[1].split("(published 0.9927937")[0]
    numbers = [float(number) for number in found.split(",")]
    assert len(numbers) == 3 and sum(numbers) == pytest.approx(1, abs=1e-5)
    # A damaged file fails its anchor, by name, and the others still run.
    (tmp_path / "CLIP.png").write_bytes(b"no picture")
    assert not selfcheck(weights, tmp_path)
    printed = capsys.readouterr().out
    assert "CLIP.png" in printed and "1 FAILED, 8 not run" in printed


# --- Comparing ----------------------------------------------------------------------


def result_of(path, value=3.0, **protocol):
    fields = {"metric": "fvd", "weights_sha256": "ab", "preprocess": "tf"} | protocol
    about = {"clips": 5, "digest": "cd", "selection": {"frames": 16}}
    metric = {"value": value, "n": 5, "n_real": 7, "protocol": fields}
    metric |= {"generated": about, "real": about, "warnings": []}
    path.write_text(json.dumps({"comparable": True, "metrics": {"fvd": metric}}))
    return path


def test_comparable_results_are_printed_side_by_side(run, tmp_path):
    one, other = result_of(tmp_path / "a.json"), result_of(tmp_path / "b.json", 2.5)
    code, printed, _ = run("compare", one, other)
    assert code == 0
    assert printed.splitlines()[1].split() == ["fvd", "3", "2.5", "-0.5", "5"]


def test_results_of_other_settings_are_refused_with_the_field(run, tmp_path):
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
    assert "is not a result of evaluate" in run("compare", one, other)[2]


# --- What is refused ----------------------------------------------------------------


@pytest.mark.parametrize(
    "more, message",
    [
        (["--metrics", "fvd,psnr"], "--metrics=fvd,psnr has to name some of"),
        (["--metrics", "fvd", "--frames", "8"], "takes at least 9 frames"),
        (["--metrics", "is", "--frames", "17"], "takes exactly 16 frames"),
        (["--fvd", "magic"], "use one of stylegan-v, tf, videogpt"),
        (["--metrics", "fid", "--image_frames", "17"], "a number of 1 to 16"),
        (["--size", "64"], "--size: 64 is not a size; use HEIGHTxWIDTH"),
        (["--batch", "0"], "argument --batch: 0 is too small; use 1 or more."),
        (["--features", "random:x"], "use random:SEED"),
        (["--weights", "nets"], "Give --weights DIR"),
        (["--metrics", "is", "--splits", "10"], "do not fill 10 splits"),
        (["--against", "nowhere"], "nowhere is not a folder, manifest"),
    ],
)
def test_invalid_options_are_refused(run, sets, tmp_path, more, message):
    code, _, log = run(*arguments(sets[0], None, tmp_path / "out", *more))
    assert code == 2 and message in log


def test_too_few_clips_and_missing_prompts(run, sets, tmp_path):
    one = folder_of(tmp_path / "one", [1], prompts=False)
    code, _, log = run(*arguments(one, sets[1], tmp_path / "out", "--metrics", "fvd"))
    assert code == 2 and "has 1 clip, of which there is no covariance" in log
    code, _, log = run(*arguments(one, None, tmp_path / "out", "--metrics", "clipsim"))
    assert code == 2 and "1 of 1 have none, as 00000.mp4" in log


def test_a_folder_without_readable_clips_is_refused(run, small_clip, tmp_path):
    (tmp_path / "clips").mkdir()
    for number in range(3):
        (tmp_path / "clips" / f"{number}.mp4").write_bytes(b"nothing")
    code, _, log = run(
        *arguments(tmp_path / "clips", None, tmp_path / "out", "--metrics", "clip_fid")
    )
    assert code == 2 and "None of the 3 generated clips can be scored" in log
    assert "0.mp4: not a video file" in log


def test_missing_weights_are_named_with_the_command_that_converts_them(
    run, sets, tmp_path
):
    command = ["evaluate", "--clips", sets[0], "--out", tmp_path / "out"]
    result = run(*command, "--weights", tmp_path, "--metrics", "fvd,clipsim")
    assert_one_line(
        result,
        "lacks i3d.safetensors, clip.safetensors; make each",
        f"--network NAME --weights FILE --out {tmp_path}/NAME.safetensors",
    )


def test_a_selfcheck_without_weights_has_not_passed(selfcheck, tmp_path, capsys):
    assert not selfcheck(tmp_path, tmp_path)
    printed = capsys.readouterr().out
    assert "0 passed, 0 FAILED, 9 not run" in printed
    assert f"lacks {tmp_path}/i3d.safetensors (make it: snapvideo convert" in printed
    assert f"{tmp_path}/elefant.jpg" in printed
