"""Video to video: a clip enters the sampler with the noise of one of its steps."""

import av
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_one_line, strip
from PIL import Image
from stages import make_run

from snapvideo_jax.diffusion import (
    EDM,
    SOLVERS,
    Sampler,
    first_step,
    initial_noise,
    noised,
    sample,
    sigma_schedule,
)
from snapvideo_jax.sampling.inputs import read_frames

pytestmark = pytest.mark.usefixtures("one_device")

STEPS, STD = 24, 0.5


def normal_data(x, sigma, carry):
    """``E[x | x_sigma]`` for data from ``N(0, STD^2)``; the carry counts calls."""
    edm = EDM()
    signal = STD**2 / edm.sigma_in
    return (signal / (signal / edm.sigma_in + sigma**2))[:, None] * x, carry + 1


@pytest.fixture(scope="module")
def clips():
    """4,000 numbers of that data, and noise for each."""
    keys = jax.random.split(jax.random.key(0), 4000)
    clips = STD * jax.random.normal(jax.random.key(1), (4000, 1))
    return clips, initial_noise(keys, (1,), EDM()), keys


def made(clips, strength, solver="heun"):
    """The sampled clips, and the number of network calls."""
    clip, noise, keys = clips
    edm, first = EDM(), first_step(STEPS, strength)
    start = noised(clip, noise, edm, STEPS, first)
    sampler = Sampler(STEPS, solver)
    return jax.jit(
        lambda: sample(normal_data, start, jnp.zeros(()), keys, edm, sampler, first)
    )()


def test_the_strength_is_the_share_of_steps_that_are_taken():
    assert [first_step(10, s) for s in (0, 0.04, 0.3, 0.6, 1)] == [10, 10, 7, 4, 0]


@pytest.mark.parametrize("solver", SOLVERS)
def test_strength_0_returns_the_clip_and_1_samples_from_noise_alone(clips, solver):
    clip, noise, keys = clips
    same, calls = made(clips, 0, solver)
    np.testing.assert_allclose(same, clip, atol=1e-6)
    assert calls == 0
    plain = jax.jit(
        lambda: sample(
            normal_data, noise, jnp.zeros(()), keys, EDM(), Sampler(STEPS, solver)
        )
    )()
    np.testing.assert_array_equal(made(clips, 1, solver)[0], plain[0])


@pytest.mark.parametrize("solver", SOLVERS)
def test_one_step_of_the_last_noise_hardly_changes_the_clip(clips, solver):
    """The limit of a low strength: noise of sigma_min = 0.002 and one call."""
    almost, calls = made(clips, 1 / STEPS, solver)
    assert calls == 1
    np.testing.assert_allclose(almost, clips[0], atol=4 * 5 * 0.002)
    assert np.abs(almost - clips[0]).max() > 1e-4


def test_the_result_correlates_with_the_clip_as_its_noisy_version_does(clips):
    """The sampler of normal data is linear, so the correlation is that of x_sigma."""
    clip, edm = np.asarray(clips[0])[:, 0], EDM()
    levels, size = np.asarray(sigma_schedule(edm, STEPS)), STD / edm.sigma_in
    for steps in (4, 6, 8, 12, STEPS):
        result = np.asarray(made(clips, steps / STEPS)[0])[:, 0]
        kept = size / np.hypot(size, levels[-1 - steps]) if steps < STEPS else 0
        assert abs(np.corrcoef(clip, result)[0, 1] - kept) < 0.05, steps
        assert abs(result.std() / STD - 1) < 0.1, steps


# --- snapvideo sample --from_clip ----------------------------------------------------


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run that samples 2 frames of 16x14 px."""
    return make_run(tmp_path_factory.mktemp("run") / "run")


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """3 frames at 8 fps, larger than the network's."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8, options={"crf": "0"})
        stream.height, stream.width, stream.pix_fmt = 28, 40, "yuv420p"
        for _ in range(3):
            frame = rng.integers(256, size=(28, 40, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode())
    return path


def make(run, workdir, out, *more):
    return run(
        *("sample", "--workdir", workdir, "--out", out, "--prompt", "a red cross"),
        *("--steps", 2, "--solver", "euler", "--guidance", 0, "--format", "png"),
        *more,
    )


def test_the_verb_returns_the_clip_or_that_of_the_prompt_alone(
    run, workdir, film, tmp_path
):
    commands = {
        "none": ("--from_clip", film, "--strength", 0),
        "half": ("--from_clip", film, "--strength", 0.5),
        "all": ("--from_clip", film, "--strength", 1),
        "plain": (),
    }
    found = {}
    for name, more in commands.items():
        code, _, err = make(run, workdir, tmp_path / name, *more)
        assert code == 0, err
        found[name] = strip(tmp_path / name, 0)
    frames = read_frames(film, (14, 16), 8.0, "--from_clip")[:2]
    np.testing.assert_array_equal(found["none"], np.concatenate(frames, axis=1))
    np.testing.assert_array_equal(found["all"], found["plain"])
    assert np.abs(found["half"] - found["none"]).max() > 1
    assert np.abs(found["half"] - found["plain"]).max() > 1
    result = make(run, workdir, tmp_path / "half", "--from_clip", film)
    assert_one_line(result, "strength=0.6 (was 0.5)")


@pytest.mark.parametrize(
    "arguments, parts",
    [
        (["--strength", "0.5"], ["--strength=0.5", "give --from_clip"]),
        (
            ["--from_clip", "FILM", "--strength", "1.5"],
            ["argument --strength: 1.5 is out of range"],
        ),
        (["--from_clip", "FILM", "--fps", "0"], ["give --fps above 0"]),
        (["--from_clip", "FILM", "--fps", "1"], ["has 1 frames at 1 fps", "makes 2"]),
        (["--from_clip", "PICTURE"], ["has 1 frames"]),
        (["--from_clip", "none.mp4"], ["--from_clip: none.mp4 is not there"]),
        (
            ["--from_clip", "FILM", "--strength", "0", "--save_trajectory"],
            ["takes no step of 2"],
        ),
    ],
)
def test_wrong_options_end_in_one_line(
    run, workdir, film, nothing_compiles, tmp_path, arguments, parts
):
    picture, out = tmp_path / "picture.png", tmp_path / "out"
    Image.new("RGB", (16, 14)).save(picture)
    files = {"FILM": film, "PICTURE": picture}
    arguments = [files.get(each, each) for each in arguments]
    assert_one_line(make(run, workdir, out, *arguments), *parts)
    assert not out.exists()
