"""The paper's protocols: prompts, sampling in parts, scoring, refusals."""

import csv
import json
import shutil

import numpy as np
import pytest
from helpers import assert_one_line, strip
from metric_files import flat_clip, smooth_clip

from snapvideo_jax.evaluation.nets import NETWORKS
from snapvideo_jax.evaluation.protocols import curves
from snapvideo_jax.evaluation.protocols.prompts import class_counts, entries, quotas
from snapvideo_jax.evaluation.protocols.score import Scores, as_csv, describe
from snapvideo_jax.evaluation.protocols.settings import PROTOCOLS, protocol_of
from snapvideo_jax.evaluation.protocols.ucf101 import PROMPTS
from snapvideo_jax.io.media import write_mp4

CAPTIONS = ["a red cross moving left", "a green square", "a blue triangle moving up"]


# --- What the paper says -----------------------------------------------------------


def test_clips_and_points_of_every_protocol_equal_the_papers():
    found = {
        name: (each.num_samples, len(each.points()), set(each.metrics))
        for name, each in PROTOCOLS.items()
    }
    assert found == {
        "internal": (50_000, 1, {"fid", "fvd", "clipsim"}),
        "ucf101": (10_000, 1, {"fvd", "fid", "is"}),
        "msrvtt": (59_800, 1, {"clip_fid", "fvd", "clipsim"}),
        "cfg_sweep": (10_000, 15, {"fvd", "clipsim"}),
        "step_sweep": (10_000, 28, {"fvd"}),
    }
    weights = [point.guidance for point in protocol_of("cfg_sweep").points()]
    assert weights == [0, 0.5, 1, 1.5, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16]
    assert {point.steps for point in protocol_of("cfg_sweep").points()} == {40}
    heun = [p.steps for p in protocol_of("step_sweep").points() if p.solver == "heun"]
    assert heun == [16, 32, 64, 128, 256, 512, 1024]


def test_metrics_that_views_share_are_computed_once():
    ucf, msrvtt = protocol_of("ucf101"), protocol_of("msrvtt")
    assert ucf.metrics_of("native") == ("fvd", "fid", "is")
    assert ucf.metrics_of("square") == ("fvd", "fid")
    assert msrvtt.metrics_of("square") == ("clip_fid", "fvd")
    assert ucf.resolution < (288, 512), "the token asks for UCF's quality"


def test_every_class_of_ucf101_has_a_prompt():
    assert len(PROMPTS) == len(set(PROMPTS.values())) == 101
    assert list(PROMPTS)[36:38] == ["HandstandPushups", "HandstandWalking"]
    for name, words in {
        "Archery": "bow",
        "Haircut": "haircuting",
        "HammerThrow": "hammer throw",
        "Punch": "boxing match",
        "YoYo": "Yo-Yo",
    }.items():
        assert words in PROMPTS[name]


def test_prompts_follow_the_class_frequencies(tmp_path):
    names = list(PROMPTS)
    path = tmp_path / "testlist01.txt"
    # File names of one class are spelt in another way, and its folder may be too.
    lines = [f"{name}/v_{i}.avi" for i, name in enumerate(names) for _ in range(1 + i)]
    lines[-101] = lines[-101].replace("YoYo", "yoyo")
    path.write_text("\n".join(lines))
    counts = class_counts(path)
    assert list(counts) == names and counts["YoYo"] == 101
    share = quotas(counts, 10_000)
    assert sum(share.values()) == 10_000
    for i, name in enumerate(names):
        assert abs(share[name] - 10_000 * (i + 1) / len(lines)) < 1
    found = entries(protocol_of("ucf101"), 10_000, None, path)
    assert [each.index for each in found] == list(range(10_000))
    assert found[-1] == (9_999, "a person at a Yo-Yo competition", "YoYo")


def test_captions_of_msr_vtts_test_split_in_their_order(tmp_path):
    path = tmp_path / "test_videodatainfo.json"
    videos = [{"video_id": "a", "split": "test"}, {"video_id": "b", "split": "train"}]
    sentences = [
        {"sen_id": 2, "video_id": "a", "caption": "two"},
        {"sen_id": 3, "video_id": "b", "caption": "no"},
        {"sen_id": 1, "video_id": "a", "caption": "one"},
    ]
    path.write_text(json.dumps({"videos": videos, "sentences": sentences}))
    protocol = protocol_of("msrvtt")
    found = [entries(protocol, n, path, None) for n in (1, 3)]
    assert [[each.prompt for each in some] for some in found] == [
        ["one"],
        ["one", "two", "one"],
    ]


# --- Sampling and scoring ----------------------------------------------------


def generate(trained, out, *more, name="msrvtt"):
    captions = trained.parent / "captions.txt"
    captions.write_text("\n".join(CAPTIONS))
    return [
        *("protocol", "generate", name, "--workdir", trained, "--out", out),
        *("--captions", captions, "--num_samples", 5, "--batch", 8, "--steps", 2),
        *more,
    ]


@pytest.fixture(scope="module")
def samples(trained, tmp_path_factory):
    """5 clips of the tiny run, by the protocol of MSR-VTT, sampled in two parts."""
    from snapvideo_jax import __main__ as cli

    out = tmp_path_factory.mktemp("protocol") / "samples"
    with pytest.MonkeyPatch.context() as patch:
        for part in ("1/2", "0/2"):
            command = generate(trained, out, "--part", part)
            patch.setattr("sys.argv", ["snapvideo", *map(str, command)])
            cli.main()
    return out


def test_parts_give_the_clips_of_one_run_and_one_manifest(
    run, trained, samples, tmp_path
):
    lines = (samples / "samples" / "manifest.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    assert [line["index"] for line in found] == list(range(5))
    assert [line["prompt"] for line in found] == [*CAPTIONS, *CAPTIONS[:2]]
    code, _, log = run(*generate(trained, tmp_path / "whole", "--batch", 16))
    assert code == 0, log
    for number in range(5):
        whole = strip(tmp_path / "whole" / "samples", number)
        assert (whole == strip(samples / "samples", number)).all()


def test_complete_clips_are_not_sampled_again(run, trained, samples, tmp_path):
    out = tmp_path / "samples"
    shutil.copytree(samples, out)
    kept, lost = (strip(out / "samples", n) for n in (1, 3))
    for name in ("00003.json", "manifest.jsonl"):
        (out / "samples" / name).unlink()
    # A clip without its note may be incomplete; one with a note is not touched.
    for name in ("00003.png", "00001.png"):
        (out / "samples" / name).write_bytes(b"changed")
    code, _, log = run(*generate(trained, out))
    assert code == 0 and "4 of 5 clips are complete" in log
    assert (strip(out / "samples", 3) == lost).all()
    assert (out / "samples" / "00001.png").read_bytes() == b"changed"
    assert (out / "samples" / "manifest.jsonl").is_file() and kept.any()


def test_a_folder_holds_clips_of_one_setting(run, trained, samples):
    result = run(*generate(trained, samples, "--guidance", 1.5))
    assert_one_line(result, "guidances=[1.5] (was [4.0])", "use another folder")
    result = run(*generate(trained, samples, "--seed", 1))
    assert_one_line(result, "seed=1 (was 0)")


def test_points_of_a_sweep_share_noise_and_prompts(run, trained, tmp_path):
    chosen = "guidance-0,guidance-4"
    command = generate(trained, tmp_path, "--only", chosen, name="cfg_sweep")
    assert run(*command)[0] == 0
    folders = [tmp_path / name for name in chosen.split(",")]
    notes = [json.loads((each / "00002.json").read_text()) for each in folders]
    assert [note["guidance_1_plus_g"] for note in notes] == [1, 5]
    assert len({(note["prompt"], note["number"], note["seed"]) for note in notes}) == 1
    one, other = (strip(each, 2) for each in folders)
    assert (one != other).any()


def test_invalid_options_are_refused_before_compiling(
    run, trained, tmp_path, nothing_compiles
):
    for parts, *more in (
        (["did you mean 'ucf101'"], "--num_samples", 5),
        (["--guidance=1.0", "cfg_sweep sweeps"], "--guidance", 1),
        (["--only=guidance-9", "not a point of cfg_sweep"], "--only", "guidance-9"),
        (["argument --part: 4/4 is not a part"], "--part", "4/4"),
        (["argument --num_samples: 0 is too small"], "--num_samples", 0),
        (["--captions=none.txt"], "--captions", "none.txt"),
    ):
        name = "ucf11" if "did you mean" in parts[0] else "cfg_sweep"
        assert_one_line(
            run(*generate(trained, tmp_path / "x", *more, name=name)), *parts
        )
    assert_one_line(
        run(*generate(trained, tmp_path / "x", name="ucf101")), "give --classes"
    )
    wrong = tmp_path / "list.txt"
    wrong.write_text("Knitting/v.avi\nSleeping/v.avi")
    command = generate(trained, tmp_path / "x", "--classes", wrong, name="ucf101")
    assert_one_line(run(*command), "'Sleeping'", "not a class of UCF-101")


@pytest.fixture
def real(tmp_path):
    for number in range(3):
        write_mp4(tmp_path / f"real/{number}.mp4", smooth_clip(number), fps=24)
    return tmp_path / "real"


def score(samples, out, *more):
    return [
        *("protocol", "score", "--samples", samples, "--out", out),
        *("--features", "random:0", "--metrics", "clip_fid,clipsim", *more),
    ]


def test_scores_of_both_views_and_departures_from_the_paper(
    run, monkeypatch, samples, real, tmp_path
):
    monkeypatch.setitem(NETWORKS, "clip", flat_clip())
    out = tmp_path / "scores"
    for _ in range(2):  # the second time nothing is left to score
        code, printed, log = run(*score(samples, out, "--against", real))
        assert code == 0, log
    assert "5 of 5 shards are complete" in log
    result = json.loads((out / "result.json").read_text())
    native, square = result["rows"]
    assert {"clip_fid", "clipsim"} <= native.keys() and "clipsim" not in square
    assert native["clip_fid_n_real"] == 3 * 2 and native["clipsim_n"] == 5
    assert native["clip_fid"] != square["clip_fid"]
    assert result["departures"] == [
        "num_samples is 5, not 59800",
        "step_counts is [2], not [256]",
        "clips have 2 frames, not 16",
    ]
    assert "(paper 9.35)" in printed and "NOT THE PAPER'S PROTOCOL" in printed
    assert "RANDOM FEATURES" in printed
    with (out / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["view"] for row in rows] == ["native", "square"]
    assert float(rows[1]["clip_fid"]) == square["clip_fid"]


def test_enlarged_clips_are_scored_in_place_of_small_ones(
    run, monkeypatch, samples, tmp_path
):
    monkeypatch.setitem(NETWORKS, "clip", flat_clip())
    large = tmp_path / "large"
    shutil.copytree(samples / "samples", large / "samples")
    command = score(samples, tmp_path / "scores", "--metrics", "clipsim")
    assert run(*command, "--clips", large)[0] == 0
    (large / "samples" / "00002.png").unlink()
    result = run(*command, "--clips", large)
    assert_one_line(result, "00002.png and .mp4 are missing")


def test_missing_clips_and_metrics_are_refused(
    run, samples, tmp_path, nothing_compiles
):
    out = tmp_path / "scores"
    assert_one_line(run(*score(samples, out)), "--against is missing")
    assert_one_line(run(*score(tmp_path, out)), "not a folder of snapvideo protocol")
    command = score(samples, out, "--metrics", "is")
    assert_one_line(run(*command), "--metrics=is is not of msrvtt")
    half = tmp_path / "half"
    shutil.copytree(samples, half)
    (half / "samples" / "manifest.jsonl").unlink()
    result = run(*score(half, out, "--metrics", "clipsim"))
    assert_one_line(result, "manifest.jsonl is missing: 5 clips")


# --- Curves -------------------------------------------------------------------------


def swept(protocol):
    return [
        {
            **{"point": p.name, "view": "native", "guidance": p.guidance},
            **{"solver": p.solver, "steps": p.steps, "comparable": True},
            **{"fvd": 50 + abs(p.guidance - 3), "clipsim": 0.25 + p.guidance / 1e3},
        }
        for p in protocol.points()
    ]


@pytest.mark.parametrize("name", ["cfg_sweep", "step_sweep"])
def test_curves_of_sweeps(name, tmp_path):
    pytest.importorskip("matplotlib")
    from PIL import Image

    protocol = protocol_of(name)
    rows = swept(protocol)
    (path,) = curves.draw(protocol, rows, tmp_path)
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    drawn = {tuple(pixel) for pixel in np.unique(pixels, axis=0).tolist()}
    for colour in curves.COLOURS[: len(protocol.solvers)]:
        rgb = tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))
        assert rgb in drawn, f"no curve in {colour}"
    assert len(as_csv(rows).splitlines()) == 1 + len(rows)
    assert "fvd" in describe(Scores(protocol, rows, [], []))
    # One point is not a curve.
    assert curves.draw(protocol, rows[:1], tmp_path) == []
