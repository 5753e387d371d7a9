"""Low-resolution conditioning of an upsampler."""

import jax.numpy as jnp
import numpy as np
import pytest

from snapvideo_jax.diffusion.low_resolution import enlarge, shrink


def clip(*size):
    values = np.random.default_rng(0).normal(size=(2, 3, *size, 3))
    return jnp.asarray(values, jnp.float32)


def test_a_shrunk_pixel_is_the_mean_of_those_it_covers():
    large = np.asarray(clip(6, 8))
    small = shrink(jnp.asarray(large), (3, 2))
    for row in range(3):
        for column in range(2):
            covered = large[:, :, 2 * row : 2 * row + 2, 4 * column : 4 * column + 4]
            np.testing.assert_allclose(
                small[:, :, row, column], covered.mean(axis=(2, 3)), atol=1e-6
            )


def linear(values, size):
    """Linear interpolation between the centres of pixels, along the first axis."""
    centres = (np.arange(size) + 0.5) * len(values) / size - 0.5
    centres = np.clip(centres, 0, len(values) - 1)
    low = np.minimum(centres.astype(int), len(values) - 2)
    share = (centres - low).reshape(-1, *[1] * (values.ndim - 1))
    return (1 - share) * values[low] + share * values[low + 1]


def test_enlarging_interpolates_between_the_centres_of_pixels():
    small = np.asarray(clip(3, 4), np.float64)
    rows = np.moveaxis(linear(np.moveaxis(small, 2, 0), 12), 0, 2)
    expected = np.moveaxis(linear(np.moveaxis(rows, 3, 0), 32), 0, 3)
    np.testing.assert_allclose(enlarge(clip(3, 4), (12, 32)), expected, atol=1e-5)


def test_a_size_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="8x6 px cannot be shrunk to 3x2 px"):
        shrink(clip(6, 8), (2, 3))
