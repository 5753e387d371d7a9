"""`snapvideo sample --cascade`: two stages, resumed, alone, and refused."""

import json

import numpy as np
import pytest
from helpers import assert_one_line, strip
from stages import SMALL, UPSAMPLER, make_run

PROMPTS = ("--prompt", "a red cross", "--prompt", "a green square")
FEW = ("--steps", 2, "--cascade_steps", 2, "--format", "png", "--guidance", 0)


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    """Workdirs of a first stage and of an upsampler."""
    folder = tmp_path_factory.mktemp("stages")
    return make_run(folder / "first", *SMALL), make_run(folder / "second", *UPSAMPLER)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The workdir of a first stage that makes clips of another size."""
    return make_run(tmp_path_factory.mktemp("plain") / "run")


@pytest.fixture(scope="module")
def both(stages, tmp_path_factory):
    """A folder for what both stages make; empty at first."""
    return tmp_path_factory.mktemp("both")


def cascade(run, stages, out, *more):
    first, second = stages
    return run(
        *("sample", "--workdir", first, "--cascade", second, "--out", out),
        *PROMPTS,
        *FEW,
        *more,
    )


def test_both_stages_resume_and_the_second_alone_makes_the_same(
    run, stages, both, tmp_path
):
    code, _, err = cascade(run, stages, both)
    assert code == 0, err
    assert strip(both / "small", 0).shape == (7, 2 * 8, 3)
    clips = [strip(both, number) for number in range(2)]
    assert clips[0].shape == (14, 2 * 16, 3)
    assert np.abs(clips[0] - clips[1]).max() > 10
    about = json.loads((both / "00001.json").read_text())
    assert about["prompt"] == "a green square" and about["small_noise"] == 0.1
    assert about["workdir"] == str(stages[1]) and about["sampler"]["steps"] == 2
    assert about["small_clip"]["workdir"] == str(stages[0])

    # What is missing is made again, by the program for all, and nothing else.
    kept = (both / "00000.png").stat().st_mtime_ns
    for name in ("00001.json", "00001.png", "small/00001.json"):
        (both / name).unlink()
    code, _, err = cascade(run, stages, both)
    assert code == 0, err
    assert (both / "00000.png").stat().st_mtime_ns == kept
    assert np.abs(strip(both, 1) - clips[1]).max() <= 1

    # The second stage alone; another amount of noise makes other clips.
    for noise in (0.1, 0.4):
        code, _, err = run(
            *("sample", "--cascade", stages[1], "--small_clips", both / "small"),
            *("--out", tmp_path / str(noise), "--small_noise", noise, *FEW),
        )
        assert code == 0, err
    assert np.abs(strip(tmp_path / "0.1", 0) - clips[0]).max() <= 1
    assert np.abs(strip(tmp_path / "0.4", 0) - clips[0]).max() > 1

    assert_one_line(cascade(run, stages, both, "--seed", 1), "seed=1 (was 0)")


@pytest.mark.parametrize(
    "arguments, parts",
    [
        (["--small_noise", "0.7"], ["--small_noise=0.7 is not in 0 to 0.5"]),
        (["--small_noise", "-1"], ["--small_noise=-1.0", "0 or more"]),
        (["--prompt", "one two three four five"], ["has 5 tokens", "takes 4"]),
        (["--cascade_solver", "rk4"], ["'rk4'", "heun"]),
        (["--cascade_steps", "0"], ["steps=0 must be at least 1"]),
        (["--cascade_batch", "0"], ["--cascade_batch=0", "use 1 or more"]),
        (["--small_clips", "x"], ["--small_clips are enlarged", "leave out"]),
    ],
)
def test_a_wrong_wish_ends_in_one_line(
    run, stages, nothing_compiles, tmp_path, arguments, parts
):
    assert_one_line(cascade(run, stages, tmp_path / "out", *arguments), *parts)
    assert not (tmp_path / "out").exists()


def test_stages_that_do_not_match_are_refused(
    run, stages, plain, nothing_compiles, tmp_path
):
    first, second = stages
    out = tmp_path / "out"
    assert_one_line(
        cascade(run, (plain, second), out),
        "The stages do not match: --workdir makes 2 frames of 16x14 px",
        "enlarges 2 frames of 8x7 px",
    )
    assert_one_line(cascade(run, (first, plain), out), "is a first stage")
    alone = ("sample", "--out", out, *FEW)
    assert_one_line(
        run(*alone, "--cascade", second, "--small_clips", tmp_path), "holds no clips"
    )
    assert_one_line(run(*alone, "--small_clips", tmp_path), "need --cascade")
    assert_one_line(run(*alone, "--cascade", second), "give --workdir of a first one")
    assert_one_line(run(*alone, "--prompt", "a"), "--workdir is missing")
    assert not out.exists()


def test_clips_of_another_size_are_refused(
    run, stages, nothing_compiles, shapes_root, tmp_path
):
    files = sorted(shapes_root.rglob("*.mp4"))[:1]
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "a.mp4").write_bytes(files[0].read_bytes())
    line = {"file": "a.mp4", "caption": "a"}
    (tmp_path / "clips" / "captions.jsonl").write_text(json.dumps(line))
    result = run(
        *("sample", "--cascade", stages[1], "--small_clips", tmp_path / "clips"),
        *("--out", tmp_path / "out", *FEW),
    )
    assert_one_line(result, "wanted 2 frames of 8x7 px", "use one of that size")
