"""`snapvideo sample --cascade`: two stages, resumed, alone, and refused."""

import json

import numpy as np
import pytest
from helpers import assert_one_line, strip
from stages import SMALL, UPSAMPLER, make_run

from snapvideo_jax.data.records import encode_png
from snapvideo_jax.diffusion.windows import windows
from snapvideo_jax.sampling.generator import Request
from snapvideo_jax.sampling.long_video import in_windows

pytestmark = pytest.mark.usefixtures("one_device")

PROMPTS = ("--prompt", "a red cross", "--prompt", "a green square")
FEW = (
    *("--steps", 2, "--cascade_steps", 2, "--format", "png", "--guidance", 0),
    *("--solver", "euler", "--cascade_solver", "euler"),
)


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
    """A folder for the clips of both stages; empty at first."""
    return tmp_path_factory.mktemp("both")


def cascade(run, stages, out, *more):
    first, second = stages
    return run(
        *("sample", "--workdir", first, "--cascade", second, "--out", out),
        *PROMPTS,
        *FEW,
        *more,
    )


def test_both_stages_resume_and_the_second_alone_gives_the_same(
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

    # Only missing clips are sampled again, by the program for all.
    before = (both / "00000.png").stat().st_mtime_ns
    for name in ("00001.json", "00001.png", "small/00001.json"):
        (both / name).unlink()
    code, _, err = cascade(run, stages, both)
    assert code == 0, err
    assert (both / "00000.png").stat().st_mtime_ns == before
    assert np.abs(strip(both, 1) - clips[1]).max() <= 1

    code, _, err = run(
        *("sample", "--cascade", stages[1], "--small_clips", both / "small"),
        *("--out", tmp_path, *FEW),
    )
    assert code == 0, err
    assert np.abs(strip(tmp_path, 0) - clips[0]).max() <= 1

    assert_one_line(cascade(run, stages, both, "--seed", 1), "seed=1 (was 0)")


@pytest.mark.parametrize(
    "arguments, parts",
    [
        (["--small_noise", "0.7"], ["--small_noise=0.7 is not in 0 to 0.5"]),
        (
            ["--small_noise", "-1"],
            ["argument --small_noise: -1", "at least 0"],
        ),
        (["--prompt", "one two three four five"], ["has 5 tokens", "takes 4"]),
        (["--cascade_solver", "rk4"], ["'rk4'", "heun"]),
        (["--cascade_steps", "0"], ["argument --cascade_steps: 0", "use 1 or more"]),
        (["--cascade_batch", "0"], ["argument --cascade_batch: 0", "use 1 or more"]),
        (["--small_clips", "x"], ["--small_clips are enlarged", "leave out"]),
        (["--from_clip", "none"], ["--from_clip: none is not there"]),
    ],
)
def test_wrong_options_end_in_one_line(
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
        f"The stages do not match: --workdir={plain} makes 2 frames of 16x14 px",
        f"--cascade={second} enlarges 2 frames of 8x7 px",
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


def small_folder(folder, frames, count=2):
    """Clips of 8x7 px that `snapvideo sample` or `extend` could have written."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    about = {"workdir": "", "step": 1, "seed": 0, "fps": 8.0, "prompt": "a red cross"}
    for number in range(count):
        clip = rng.integers(256, size=(frames, 7, 8, 3), dtype=np.uint8)
        (folder / f"{number:05d}.png").write_bytes(encode_png(np.hstack(clip)))
        text = json.dumps(about | {"frames": frames, "number": number})
        (folder / f"{number:05d}.json").write_text(text)
    return folder


def test_windows_know_the_last_frame_and_have_separate_noise():
    """5 frames, 3 at a time: the requests, and the frames that are retained."""
    small = np.arange(5, dtype=np.uint8)[None, :, None, None, None]
    small = np.broadcast_to(small, (2, 5, 7, 8, 3))
    plan, asked = windows(5, (1.0,), 3), []

    def sample(params, request):
        asked.append(request)
        made = np.full((2, 3, 14, 16, 3), 100 * len(asked), np.uint8)
        return made + request.small[:, :, :1, :1]

    request = Request(["a", "b"], [0, 1], 0, 0.0, 8.0, (14, 16), stream=7, small=small)
    clips = np.zeros((2, 5, 14, 16, 3), np.uint8)
    assert len(list(in_windows(sample, None, request, plan, clips))) == 2
    assert [each.stream for each in asked] == [7, 8]
    np.testing.assert_array_equal(asked[1].small, small[:, 2:])
    assert asked[0].known is None
    assert asked[1].is_known.tolist() == [True, False, False]
    np.testing.assert_array_equal(asked[1].known[:, 0], clips[:, 2])
    assert clips[0, :, 0, 0, 0].tolist() == [100, 101, 102, 203, 204]


def test_a_longer_clip_is_enlarged_window_by_window(run, stages, tmp_path):
    folder, out = small_folder(tmp_path / "small", 3, count=1), tmp_path / "out"
    command = ("sample", "--cascade", stages[1], "--small_clips", folder, *FEW)
    code, _, err = run(*command, "--out", out)
    assert code == 0, err
    frames = np.split(strip(out, 0), 3, axis=1)
    assert frames[0].shape == (14, 16, 3)
    assert all(np.ptp(frame) > 10 for frame in frames)
    assert json.loads((out / "00000.json").read_text())["windows"] == 2


@pytest.mark.parametrize(
    "frames, more, parts",
    [
        (1, [], ["has clips of 1 frames", "enlarges 2 or more"]),
        (3, ["--save_trajectory"], ["shows one clip of 2 frames", "leave it out"]),
        (None, [], ["has clips of [2, 3] frames", "a separate folder"]),
    ],
)
def test_clips_of_wrong_lengths_are_refused(
    run, stages, nothing_compiles, tmp_path, frames, more, parts
):
    folder = small_folder(tmp_path / "small", frames or 3)
    if frames is None:
        text = (folder / "00001.json").read_text().replace('s": 3', 's": 2')
        (folder / "00001.json").write_text(text)
    command = ("sample", "--cascade", stages[1], "--small_clips", folder, *FEW)
    assert_one_line(run(*command, "--out", tmp_path / "out", *more), *parts)
    assert not (tmp_path / "out").exists()


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
