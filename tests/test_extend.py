"""`snapvideo extend`: long videos, known frames, resuming, and refusals."""

import json

import av
import numpy as np
import pytest
from helpers import assert_one_line, strip
from PIL import Image
from stages import make_run

pytestmark = pytest.mark.usefixtures("one_device")

FEW = (
    *("--steps", 2, "--solver", "euler", "--guidance", 0, "--format", "png"),
    *("--prompt", "a red cross"),
)
FRAMES = 9


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run that samples 4 frames at a time."""
    return make_run(tmp_path_factory.mktemp("run") / "run", "data.frames=4")


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    """A picture of the network's size."""
    pixels = np.random.default_rng(0).integers(256, size=(14, 16, 3), dtype=np.uint8)
    path = tmp_path_factory.mktemp("picture") / "first.png"
    Image.fromarray(pixels).save(path)
    return path


def extend(run, workdir, out, *more):
    return run(
        *("extend", "--workdir", workdir, "--out", out, "--frames", FRAMES),
        *FEW,
        *more,
    )


def frames(out, number=0):
    """The frames of a video."""
    return np.split(strip(out, number), FRAMES, axis=1)


def test_an_interrupted_video_resumes(run, workdir, picture, tmp_path, monkeypatch):
    """The first frame is known; a job that resumes gives the same video."""
    from snapvideo_jax.sampling import long_video as verb

    command = ("--rates", "4,8", "--image", picture, "--products", 1)
    with monkeypatch.context() as patch:
        patch.setattr(verb.Parts, "remove", lambda self: None)
        code, _, err = extend(run, workdir, tmp_path, *command)
    assert code == 0, err
    whole, made = strip(tmp_path, 0), frames(tmp_path)
    np.testing.assert_array_equal(made[0], np.asarray(Image.open(picture)))
    assert all(np.abs(a - b).max() > 5 for a, b in zip(made, made[1:], strict=False))
    about = json.loads((tmp_path / "00000.json").read_text())
    assert about["rates"] == [4, 8] and about["fps"] == 8 and about["frames"] == FRAMES
    assert list(about["known"]) == ["0"] and about["reconstruction"]["weight"] == 1

    # As if it had been killed after two windows.
    parts = sorted((tmp_path / "parts").rglob("*.npy"))
    assert len(parts) == about["clips"] > 2
    for path in (*parts[2:], tmp_path / "00000.json", tmp_path / "00000.png"):
        path.unlink()
    rest, request = [], verb.window_request
    monkeypatch.setattr(
        verb, "window_request", lambda *a: rest.append(a[2]) or request(*a)
    )
    code, _, err = extend(run, workdir, tmp_path, *command)
    assert code == 0, err
    assert rest == list(range(2, about["clips"]))
    assert np.abs(strip(tmp_path, 0) - whole).max() <= 1
    assert not (tmp_path / "parts").exists()


@pytest.mark.parametrize(
    "arguments, parts",
    [
        (["--rates", "3,8"], ["8 is 2.66667 times 3", "2 to 3 times"]),
        (["--rates", "x"], ["argument --rates: 'x' is not a list of values"]),
        (["--rates", "0.5,1"], ["0.5 is below 1 fps", "data.min_fps"]),
        (["--overlap", "4"], ["--overlap=4 is out of range", "1 to 3"]),
        (["--known", "9=FILE"], ["frame 9 is out of range", "frames 0 to 8"]),
        (["--known=-1=FILE"], ["argument --known: -1=", "0=first.png"]),
        (["--known", "1"], ["argument --known: 1 is not a frame's number and a file"]),
        (["--known", "1=none.png"], ["none.png is not there"]),
        (["--known", "0=FILE", "--image", "FILE"], ["frame 0 is known already"]),
        (["--frames", "0"], ["argument --frames: 0", "use 1 or more"]),
        (["--prompt", "one two three four five"], ["has 5 tokens"]),
        (["--rule", "papre"], ["'papre'", "'paper'"]),
        (["--products", "0"], ["argument --products: 0 is too small"]),
    ],
)
def test_wrong_options_end_in_one_line(
    run, workdir, picture, nothing_compiles, tmp_path, arguments, parts
):
    arguments = [each.replace("FILE", str(picture)) for each in arguments]
    out = tmp_path / "out"
    assert_one_line(extend(run, workdir, out, *arguments), *parts)
    assert not out.exists()


def test_known_frames_of_a_video_are_taken_by_time(picture, tmp_path):
    """At 4 fps every other frame of 8 fps is taken, cropped around the middle."""
    from snapvideo_jax.sampling.inputs import read_frames

    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as film:
        stream = film.add_stream("libx264", rate=8, options={"crf": "0"})
        stream.height, stream.width, stream.pix_fmt = 14, 32, "yuv420p"
        for level in (0, 60, 120, 180, 240):
            frame = np.full((14, 32, 3), level, np.uint8)
            film.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        film.mux(stream.encode())
    found = read_frames(path, (14, 16), 4.0, "--known")
    assert found.shape == (3, 14, 16, 3)
    levels = found.mean(axis=(1, 2, 3))
    np.testing.assert_allclose(levels, [0, 120, 240], atol=4)
