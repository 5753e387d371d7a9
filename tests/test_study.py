"""A user study: blinded pairs that are alike, and votes counted as in Tab. 6."""

import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from helpers import assert_one_line
from page_samples import PROMPTS, shown_data, write_samples, write_study, write_votes

from snapvideo_jax.data.video import ClipInfo, probe
from snapvideo_jax.evaluation.pages.agreement import (
    krippendorff_alpha,
    pairwise_agreement,
)
from snapvideo_jax.evaluation.pages.matching import FormatLimits
from snapvideo_jax.evaluation.pages.page import embedded
from snapvideo_jax.evaluation.pages.study import draw_pairs
from snapvideo_jax.evaluation.pages.tally import bootstrap_interval


@pytest.fixture(scope="module")
def key_file(tmp_path_factory):
    """The key of a study of three methods, and its page."""
    return write_study(tmp_path_factory.mktemp("study"))[1]


@pytest.fixture
def study(key_file):
    """The folder of a page, and its key as it was read."""
    return key_file.parent / "page", json.loads(key_file.read_text())


# --- The page -------------------------------------------------------------------------


def test_every_prompt_is_shown_once_against_every_rival(study):
    page, key = study
    pairs = shown_data(page)["pairs"]
    assert [pair["id"] for pair in pairs] == list(key["pairs"])
    seen = Counter(
        (pair["prompt"], frozenset((pair["a"], pair["b"])))
        for pair in key["pairs"].values()
    )
    rivals = [frozenset(("ours", rival)) for rival in ("rival", "third")]
    assert seen == Counter((prompt, both) for prompt in PROMPTS for both in rivals)


def test_the_page_tells_nothing_of_the_methods(study, key_file):
    page, key = study
    files = [path for path in page.rglob("*") if path.is_file()]
    for path in files:
        content = path.read_bytes()
        for word in (b"ours", b"rival", b"third", b"made-by", b"00001"):
            found = word in content and path.suffix not in (".js", ".css", ".mp4")
            assert not found and word.decode() not in path.name
    clips = [path for path in files if path.suffix == ".mp4"]
    # A clip that comes again has another name, and all were written at one time.
    assert len(clips) == 2 * len(key["pairs"])
    assert len({path.stat().st_mtime for path in clips}) == 1
    contents = {hashlib.sha256(path.read_bytes()).digest() for path in clips}
    assert len(contents) == 3 * len(PROMPTS)
    assert not key_file.is_relative_to(page)


def test_the_key_tells_which_clip_lies_where(study):
    """Ours shows other scenes than its rivals: each clip is known by its content."""
    page, key = study
    by_source = {}
    for pair in shown_data(page)["pairs"]:
        opened = key["pairs"][pair["id"]]
        for side, source in zip("ab", opened["files"], strict=True):
            assert f"made-by-{opened[side]}" in source
            by_source.setdefault(source, set()).add((page / pair[side]).read_bytes())
    assert all(len(contents) == 1 for contents in by_source.values())
    assert len(by_source) == 3 * len(PROMPTS)


def test_clips_are_of_one_size_length_and_frame_rate(study):
    """8 frames at 8/s of 16 px, 24 at 12/s of 24 px, and 24 at 24/s of 16 px."""
    page, key = study
    found = [probe(path) for path in (page / "clips").iterdir()]
    assert {(clip.frames, clip.height, clip.width) for clip in found} == {(8, 16, 16)}
    assert [clip.fps for clip in found] == pytest.approx([8] * len(found))
    assert key["clips"] == {"frames": 8, "fps": 8.0, "height": 16, "width": 16}


def test_order_and_sides_come_from_the_seed():
    draw = [draw_pairs(["a", "b", "c"], [str(i) for i in range(40)], s) for s in (0, 1)]
    again = draw_pairs(["a", "b", "c"], [str(i) for i in range(40)], 0)
    assert draw[0] == again != draw[1]
    prompts = [[pair.prompt for pair in pairs] for pairs in draw]
    assert prompts[0] != prompts[1]
    for rival in "bc":
        sides = [pair.methods[0] for pair in draw[0] if rival in pair.methods]
        assert Counter(sides) == {"a": 20, rival: 20}


def test_a_text_cannot_end_the_data_of_a_page():
    hostile = ["</script><script>alert(1)</script>", "<!--", "&lt;", "\u2028", "\ud800"]
    text = embedded(hostile)
    assert not set(text) & set("<>&\u2028") and text.isascii()
    assert json.loads(text) == hostile


@pytest.mark.parametrize(
    "limits, parts",
    [
        (FormatLimits(fps=9), ["fps=9 is more than the 8 of a.mp4", "fps=8 or less"]),
        (FormatLimits(height=40), ["height=40 is more than the 36 of b.mp4"]),
        (
            FormatLimits(seconds=0.01),
            ["8 frames a second for 0.01 seconds are not a clip"],
        ),
    ],
)
def test_limits_that_clips_do_not_meet_are_refused(limits, parts):
    clips = {"a.mp4": (16, 8.0, 64, 64), "b.mp4": (48, 24.0, 36, 96)}
    clips = {Path(name): info_of(*values) for name, values in clips.items()}
    with pytest.raises(ValueError) as error:
        limits.common_format(clips)
    assert all(part in str(error.value) for part in parts)


@pytest.mark.parametrize("fps", [-1.0, float("nan")])
def test_limits_below_0_are_refused(fps):
    with pytest.raises(ValueError, match=f"fps={fps} is not 0 or more"):
        FormatLimits(fps=fps)


def info_of(frames, fps, height, width):
    return ClipInfo(frames, fps, (frames - 1) / fps, height, width)


@pytest.mark.parametrize(
    "options, parts",
    [
        (["--seed", -1], ["argument --seed: -1 is too small", "use 0 or more"]),
        (["--fps", -1], ["argument --fps: -1 is out of range; use at least 0"]),
        (["--fps", "nan"], ["argument --fps: nan is out of range; use at least 0"]),
        (["--key", "page/key.json"], ["lies within the page", "use a file elsewhere"]),
        (["--key", "prompts.txt"], ["--key=prompts.txt exists", "use a new file"]),
        (["--out", "ours"], ["--out=ours is not an empty folder", "use another one"]),
        (["--method", "ours=rival"], ["'ours' is named twice"]),
        (["--method", "third"], ["argument --method: 'third' is not NAME=DIR"]),
        (["--method", "third=none"], ["none is not a folder"]),
        (["--prompts", "none.txt"], ["--prompts=none.txt", "no such file"]),
        (["--prompts", "more.txt"], ["ours (ours) has no clip for 'a blue dog'"]),
        (["--prompts", "twice.txt"], ["'a blue cat': twice among the prompts"]),
        (["--prompts", "blank.txt"], ["There is no prompt"]),
    ],
)
def test_a_study_that_cannot_be_built_is_refused(
    run, two_methods, monkeypatch, options, parts
):
    monkeypatch.chdir(two_methods)
    before = sorted(two_methods.rglob("*"))
    assert_one_line(run(*BUILD, *options), *parts)
    assert sorted(two_methods.rglob("*")) == before


BUILD = (
    *("study", "build", "--out", "page", "--prompts", "prompts.txt"),
    *("--method", "ours=ours", "--method", "rival=rival"),
)


@pytest.fixture
def two_methods(tmp_path):
    for number, name in enumerate(("ours", "rival")):
        write_samples(tmp_path / name, PROMPTS, frames=4, seed=number)
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS), encoding="utf-8")
    (tmp_path / "more.txt").write_text(f"{PROMPTS[0]}\na blue dog\n")
    (tmp_path / "twice.txt").write_text("a blue cat\n" * 2)
    (tmp_path / "blank.txt").write_text("\n \n")
    return tmp_path


def test_clips_that_cannot_be_read_are_named(run, two_methods, monkeypatch):
    monkeypatch.chdir(two_methods)
    good = (two_methods / "ours/00001.mp4").read_bytes()
    (two_methods / "ours/00001.mp4").write_bytes(good[: len(good) // 2])
    (two_methods / "rival/00002.mp4").write_bytes(b"not a clip at all")
    result = run(*BUILD)
    assert_one_line(result, "ours/00001.mp4: ", "rival/00002.mp4: not a video file")
    (two_methods / "ours/00001.json").write_text("{")
    (two_methods / "rival/00002.json").unlink()
    result = run(*BUILD)
    assert_one_line(result, "00001.json is unusable", "its 00002.json is missing")
    assert not (two_methods / "page").exists()


def test_the_verb_builds_what_it_says(run, two_methods, monkeypatch):
    monkeypatch.chdir(two_methods)
    code, out, err = run(*BUILD, "--size", "14x12", "--seconds", 0.4, "--seed", 5)
    assert code == 0, err
    assert out == (
        "3 pairs of 12x14 pixels, 3 frames at 8 a second: page/index.html. Do not "
        "share page.key.json with raters.\n"
    )
    key = json.loads(Path("page.key.json").read_text())
    assert (key["seed"], key["methods"]) == (5, ["ours", "rival"])
    found = [probe(path) for path in Path("page/clips").iterdir()]
    assert {(clip.frames, clip.height, clip.width) for clip in found} == {(3, 14, 12)}


def test_one_method_or_a_still_makes_no_study(run, two_methods, monkeypatch):
    monkeypatch.chdir(two_methods)
    assert_one_line(run(*BUILD[:-2]), "1 method gives no pairs")
    write_samples(two_methods / "stills", PROMPTS, frames=1)
    result = run(*BUILD, "--method", "third=stills")
    assert_one_line(result, "stills/00000.mp4 has one frame")


# --- The tally ------------------------------------------------------------------------


def test_percentages_are_the_share_of_votes(run, study, key_file, tmp_path):
    """Ours wins all against `third`, and against `rival` 1 of 3 raters' votes."""
    _, key = study

    def voter(number):
        def choose(pair, question):
            rival = {pair["a"], pair["b"]} - {"ours"}
            return "ours" if rival == {"third"} or number == 0 else rival.pop()

        return choose

    files = [
        write_votes(tmp_path / f"{i}.json", key, f"rater {i}", voter(i))
        for i in range(3)
    ]
    result = tallied(run, key_file, *files)
    for question in key["questions"]:
        assert result["table"]["third"][question]["percent"] == 100
        assert result["table"]["third"][question]["interval"] == [100, 100]
        against = result["table"]["rival"][question]
        assert against["percent"] == pytest.approx(100 / 3)
        assert against["votes"] == 9 and against["pairs"] == 3
        # Of 6 pairs, 3 have all raters agree, in 3 only one pair of raters does.
        assert result["agreement"][question]["agreeing"] == pytest.approx(200 / 3)
    assert result["votes"] == result["votes_wanted"] == 3 * 6 * 4
    assert tallied(run, key_file, *files[::-1]) == result
    code, out, _ = run("study", "tally", "--key", key_file, *files)
    assert code == 0
    assert out.splitlines()[0].split("  ")[0] == "ours over"
    assert "33.3 [33.3, 33.3]" in out and "100.0 [100.0, 100.0]" in out
    assert "72 of 72 votes, 3 raters" in out and "66.7 %" in out


def test_missing_votes_are_not_counted(run, study, key_file, tmp_path):
    _, key = study
    path = write_votes(tmp_path / "a.json", key, "Anna", lambda pair, _: pair["a"])
    content = json.loads(path.read_text())
    first = content["votes"][0]
    path.write_text(json.dumps(content | {"votes": [first]}))
    result = tallied(run, key_file, path)
    assert (result["votes"], result["votes_wanted"]) == (1, 24)
    pair = key["pairs"][first["pair"]]
    rival = next(name for name in (pair["a"], pair["b"]) if name != "ours")
    found = result["table"][rival][first["question"]]
    assert found["percent"] == (100 if pair["a"] == "ours" else 0)
    assert found["interval"] is None
    assert result["agreement"][first["question"]] == {"alpha": None, "agreeing": None}
    code, out, _ = run("study", "tally", "--key", key_file, path)
    assert code == 0 and "1 of 24 votes, 1 rater." in out


def tallied(run, key_file, *files):
    code, out, err = run("study", "tally", "--key", key_file, "--json", *files)
    assert code == 0, err
    return json.loads(out)


def test_a_rater_may_use_several_files_but_not_vote_twice(
    run, study, key_file, tmp_path
):
    _, key = study
    whole = write_votes(tmp_path / "whole.json", key, "Anna", lambda pair, _: pair["a"])
    content = json.loads(whole.read_text())
    halves = []
    for name, part in (("one", slice(0, 9)), ("two", slice(9, None))):
        halves.append(tmp_path / f"{name}.json")
        half = content | {"votes": content["votes"][part]}
        halves[-1].write_text(json.dumps(half))
    assert tallied(run, key_file, *halves) == tallied(run, key_file, whole)
    command = ("study", "tally", "--key", key_file)
    result = run(*command, whole, halves[0])
    assert_one_line(result, "'Anna' voted twice on photorealism", "one.json")
    whole.write_text(json.dumps(content | {"votes": content["votes"][:1] * 2}))
    assert_one_line(run(*command, whole), "'Anna' voted twice")


@pytest.mark.parametrize(
    "change, parts",
    [
        ({"study": "0123"}, ["votes of study '0123'", "use the key of its study"]),
        ({"format": 2}, ["is not a file with votes of format 1"]),
        ({"rater": " "}, ["no rater"]),
        ({"votes": None}, ["no votes"]),
        ({"votes": []}, ["There are no votes"]),
        ({"votes": ["a"]}, ["pair=None"]),
        ({"votes": [{"pair": "x"}]}, ["pair='x'", "does not have"]),
        ({"choice": "left"}, ["choice='left'"]),
        ({"question": "beauty"}, ["question='beauty'"]),
    ],
)
def test_votes_that_are_not_of_this_study_are_refused(
    run, study, key_file, tmp_path, change, parts
):
    _, key = study
    path = write_votes(tmp_path / "a.json", key, "Anna", lambda pair, _: pair["a"])
    content = json.loads(path.read_text())
    if set(change) & {"choice", "question"}:
        change = {"votes": [content["votes"][0] | change]}
    path.write_text(json.dumps(content | change))
    command = ("study", "tally", "--key", key_file, path)
    assert_one_line(run(*command), *parts)


def test_other_files_than_votes_and_keys_are_refused(run, study, key_file, tmp_path):
    broken = tmp_path / "broken.json"
    broken.write_text('{"format": 1')
    assert_one_line(
        run("study", "tally", "--key", key_file, broken), "broken.json is not a"
    )
    assert_one_line(
        run("study", "tally", "--key", broken, key_file), "is not a key of a study"
    )
    assert_one_line(run("study", "tally", "--key", key_file, "none.json"), "none.json")
    result = run("study", "tally", "--key", key_file, broken, "--resamples", 0)
    assert_one_line(result, "argument --resamples: 0 is too small; use 1 or more")


def test_the_interval_of_independent_votes_is_that_of_a_binomial():
    wins = (np.arange(400) % 10 < 7).astype(int)
    low, high = bootstrap_interval(wins, np.ones(400, int), [0], 4000)
    half = 100 * 1.96 * np.sqrt(0.7 * 0.3 / 400)
    assert (low, high) == pytest.approx((70 - half, 70 + half), abs=0.6)


def test_votes_that_repeat_a_pair_do_not_narrow_the_interval():
    wins = (np.arange(60) % 3 > 0).astype(int)
    once = bootstrap_interval(wins, np.ones(60, int), [0], 500)
    assert bootstrap_interval(5 * wins, np.full(60, 5), [0], 500) == once
    assert bootstrap_interval(wins, np.ones(60, int), [1], 500) != once


# The worked examples of Krippendorff (2011), sections B, C and D; "." was not rated.
@pytest.mark.parametrize(
    "raters, alpha",
    [
        (["0100000010", "1110010000"], 0.095),
        (["aabbdcccedda", "babbbccceddd"], 0.692),
        (["123321412...", "1233224125.3", ".3332342251.", "12332441251."], 0.743),
    ],
)
def test_alpha_is_that_of_the_published_examples(raters, alpha):
    units = [
        [value for value in unit if value != "."] for unit in zip(*raters, strict=True)
    ]
    assert krippendorff_alpha(units) == pytest.approx(alpha, abs=5e-4)


def test_agreement_is_one_where_all_agree_and_unknown_of_one_rater():
    assert krippendorff_alpha(["aa", "bb", "b"]) == 1
    assert krippendorff_alpha(["a", "b"]) is None and pairwise_agreement("ab") is None
    assert krippendorff_alpha(["aa", "aa"]) is None  # never was there a choice
    assert pairwise_agreement(["aab", "bb"]) == (2 + 2) / (6 + 2)
