"""Recorded sampling trajectories, and that recording does not change the result."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import strip
from PIL import Image
from stages import make_run

from snapvideo_jax.diffusion import EDM, SOLVERS, Sampler, sample, sigma_schedule
from snapvideo_jax.diffusion.trajectory import empty_recording, recorded, recorded_steps

pytestmark = pytest.mark.usefixtures("one_device")


def shrinking(x, sigma, carry):
    """The denoiser of standard normal data."""
    edm, level = EDM(), sigma[:, None, None, None, None]
    return x / edm.sigma_in / (1 / edm.sigma_in**2 + level**2), carry + 1


@pytest.mark.parametrize("solver", SOLVERS)
def test_first_calls_of_steps_are_recorded_and_the_result_is_the_same(solver):
    edm, sampler = EDM(), Sampler(steps=7, solver=solver)
    keys = jax.random.split(jax.random.key(0), 2)
    start = edm.sigma_max * jax.random.normal(keys[0], (2, 2, 3, 4, 3))

    def make(count):
        denoise, carry = shrinking, jnp.zeros(())
        if count:
            denoise = recorded(denoise, edm, sampler.steps, count)
            carry = carry, empty_recording(start, sampler.steps, count)
        return jax.jit(lambda: sample(denoise, start, carry, keys, edm, sampler))()

    plain, calls = make(0)
    clips, (same_calls, (noisy, estimates)) = make(3)
    np.testing.assert_allclose(clips, plain, rtol=1e-5, atol=1e-6)
    assert calls == same_calls
    assert noisy.shape == estimates.shape == (2, 3, 2, 3, 4, 3)
    # The first is of the noise that sampling starts from, the last is the clip.
    np.testing.assert_array_equal(estimates[:, -1], clips)
    level = jnp.full(2, edm.sigma_max)
    np.testing.assert_allclose(
        estimates[:, 0], shrinking(start, level, jnp.zeros(()))[0], rtol=1e-5
    )
    shown = np.clip(start * edm.c_in(jnp.array(edm.sigma_max)), -1, 1)
    np.testing.assert_allclose(noisy[:, 0], shown, rtol=1e-5)
    # For this denoiser all clips of a path are the same but for their scale.
    level = float(sigma_schedule(edm, sampler.steps)[3])
    ratio = np.asarray(estimates[:, 1] / clips)
    assert ratio.std() < 1e-3 and 0 < ratio.mean() < 1, level


def test_recorded_steps_are_evenly_spaced():
    assert recorded_steps(256, 4) == (0, 85, 170, 255)
    assert recorded_steps(2, 8) == (0, 1) and recorded_steps(1, 8) == (0,)


def test_the_strip_is_written_next_to_the_clip(run, tmp_path):
    """3 noise levels, 2 rows of clips of 16x14 px."""
    workdir = make_run(tmp_path / "run")
    command = ("sample", "--workdir", workdir, "--prompt", "a", "--steps", 4)
    for name, more in {"plain": [], "shown": ["--save_trajectory", 3]}.items():
        out = tmp_path / name
        code, _, err = run(*command, "--out", out, "--format", "png", *more)
        assert code == 0, err
    apart = strip(tmp_path / "plain", 0) - strip(tmp_path / "shown", 0)
    assert np.abs(apart).max() <= 1
    with Image.open(tmp_path / "shown" / "00000-trajectory.png") as picture:
        sheet = np.asarray(picture)
    assert sheet.shape[1] == 3 * (16 + 6) + 6
    with Image.open(tmp_path / "shown" / "00000-trajectory.gif") as film:
        assert film.n_frames == 2
