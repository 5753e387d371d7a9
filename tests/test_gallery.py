"""The gallery: samples of runs by prompt, their metrics, and what is left out."""

import json
from pathlib import Path

import pytest
from helpers import assert_one_line
from page_samples import HOSTILE, PROMPTS, shown_data, write_samples
from PIL import Image

from snapvideo_jax.evaluation.pages.gallery import GalleryOptions, build_gallery
from snapvideo_jax.io.json_lines import finite, read_metrics


def test_runs_are_shown_side_by_side_by_prompt(run, tmp_path):
    write_samples(tmp_path / "run/step_10", [*PROMPTS, PROMPTS[0]])
    write_samples(tmp_path / "run/step_20", PROMPTS[::-1], seed=1)
    (tmp_path / "run/step_20/result.json").write_text(
        json.dumps({"metrics": {"fvd": {"value": 12.5, "n": 64}}})
    )
    out = tmp_path / "page"
    code, printed, err = run("gallery", tmp_path / "run", "--out", out)
    assert code == 0, err
    assert printed == f"7 clips of 2 runs, 0 left out: {out}/index.html\n"
    data = shown_data(out)
    assert data["runs"] == [
        {"name": "step_10", "metrics": {}},
        {"name": "step_20", "metrics": {"result.json": {"fvd": 12.5}}},
    ]
    cards = [(card["prompt"], sorted(card["clips"])) for card in data["cards"]]
    assert cards == [*((prompt, ["0", "1"]) for prompt in PROMPTS), (PROMPTS[0], ["0"])]
    clip = data["cards"][0]["clips"]["1"]
    assert clip["about"] == {"number": 2, "step": 10, "guidance": 2.0}
    source = tmp_path / "run/step_20/00002.mp4"
    assert (out / f"{clip['file']}.mp4").read_bytes() == source.read_bytes()
    with Image.open(out / f"{clip['file']}.webp") as still:
        assert still.size == (16, 16)
    assert HOSTILE not in (out / "index.html").read_text()


def test_unusable_clips_are_named_and_left_out(run, tmp_path):
    folder = write_samples(tmp_path / "samples", PROMPTS * 2)
    good = (folder / "00001.mp4").read_bytes()
    (folder / "00001.mp4").write_bytes(good[: len(good) // 2])
    (folder / "00002.json").write_text('{"prompt": 3}')
    (folder / "00003.json").unlink()
    (folder / "metrics.jsonl").write_text("{")
    (folder / "sheet.mp4").write_bytes(b"not numbered")
    code, printed, err = run("gallery", folder, "--out", tmp_path / "page")
    assert code == 0 and printed.startswith("3 clips of 1 runs, 4 left out")
    assert err.count("left out: ") == 4
    for part in (
        "00001.mp4: not a video file",
        "00002.json is unusable (prompt is not a string)",
        "its 00003.json is missing",
        "metrics.jsonl: unusable metrics",
    ):
        assert part in err
    cards = shown_data(tmp_path / "page")["cards"]
    # The second sample of a prompt stays the second, whatever became of the first.
    assert [card["prompt"] for card in cards] == [PROMPTS[0], *PROMPTS[1:]]
    assert [card["clips"]["0"]["about"]["number"] for card in cards] == [0, 4, 5]


def test_metrics_are_read_from_what_other_verbs_write(tmp_path):
    contents = {
        "00000.json": {"prompt": "", "metrics": {"none": {"value": 1}}},
        "judged.json": {"shares": {"colour": 0.5, "all": 0.25}, "clips": []},
        "list.json": [1, 2],
        "scores.json": {"metrics": {"fvd": {"value": float("nan")}, "is": {"n": 3}}},
    }
    for name, content in contents.items():
        (tmp_path / name).write_text(json.dumps(content))
    lines = ['{"step": 10, "loss": 3}', '{"step": 20, "loss": 2.5, "nonfinite": ["a"]}']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    assert read_metrics(tmp_path) == (
        {
            "judged.json": {"obeyed: colour": 0.5, "obeyed: all": 0.25},
            "metrics.jsonl": {"step": 20, "loss": 2.5},
            "scores.json": {"fvd": None},
        },
        [],
    )


def test_numbers_that_json_cannot_hold_become_null():
    given = {"a": [1.5, float("inf")], "b": {"c": float("nan")}, "d": "text", "e": True}
    assert finite(given) == {"a": [1.5, None], "b": {"c": None}, "d": "text", "e": True}


def test_runs_of_one_name_are_named_by_their_folders(tmp_path):
    folders = [tmp_path / name / "samples" for name in ("one", "two")]
    for folder in folders:
        write_samples(folder, PROMPTS[:1])
    build_gallery(GalleryOptions(folders=folders, out=tmp_path / "page"))
    names = [run["name"] for run in shown_data(tmp_path / "page")["runs"]]
    assert names == ["one/samples", "two/samples"]


@pytest.mark.parametrize(
    "arguments, parts",
    [
        (["none", "--out", "page"], ["none is not a folder"]),
        (["empty", "--out", "page"], ["empty has no clips"]),
        (["samples", "samples", "--out", "page"], ["A folder is named twice"]),
        (["samples", "--out", "samples"], ["--out=samples is not an empty folder"]),
        (["broken", "--out", "page"], ["broken/00000.mp4", "no clip can be shown"]),
    ],
)
def test_a_gallery_that_cannot_be_made_is_refused(
    run, tmp_path, monkeypatch, arguments, parts
):
    monkeypatch.chdir(tmp_path)
    write_samples(Path("samples"), PROMPTS[:1])
    write_samples(Path("broken"), PROMPTS[:1])
    Path("broken/00000.mp4").write_bytes(b"none")
    Path("empty").mkdir()
    assert_one_line(run("gallery", *arguments), *parts)
    assert not Path("page").exists()
    assert not list(Path().glob(".page-*"))
