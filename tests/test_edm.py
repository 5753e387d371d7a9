"""The rescaled EDM against its golden table, the original EDM, and its own laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from snapvideo_jax.diffusion import EDM, broadcast

SETTINGS = [(1.0, 1.0), (4.0, 1.0), (32.0, 1.0), (1.0, 0.5), (4.0, 0.5)]
"""(sigma_in, sigma_data) of the paper's two stages and of Tab. 3."""

FUNCTIONS = ("c_in", "c_skip", "c_out", "c_nrm", "loss_weight", "effective_weight")
# sigma_in, sigma, then the functions at sigma_data = 1, computed in float64.
GOLDEN = """
 1 0.002 0.999998      0.999996       -0.001999996   0.999998      250001      1
 1 0.05  0.9987523389  0.9975062344   -0.04993761694 0.9987523389  401         1
 1 0.3   0.9578262852  0.9174311927   -0.2873478856  0.9578262852  12.11111111 1
 1 1.0   0.7071067812  0.5            -0.7071067812  0.7071067812  2           1
 1 5.0   0.1961161351  0.03846153846  -0.9805806757  0.1961161351  1.04        1
 1 80.0  0.01249902355 0.0001562255898 -0.9999218842 0.01249902355 1.00015625  1
 4 0.002 3.999872006   3.999936001    -0.007999888002 0.999998     250001 15.99961601
 4 0.05  3.922322703   3.96039604     -0.1982671722  0.9987523389  401    15.7632585
 4 0.3   2.560737599   2.941176471 -0.9212035155 0.9578262852 12.11111111 10.27768166
 4 1.0   0.9701425001  0.8            -1.13137085    0.7071067812  2           2.56
 4 5.0   0.1997504678  0.0396039604   -1.009706834   0.1961161351  1.04   1.060288207
 4 80.0  0.01249993897 0.0001562438967 -1.000039058 0.01249902355 1.00015625 1.00023438
32 0.002 31.93466464   31.99590452    -0.06399193703 0.999998      250001 1023.746096
32 0.05  16.95996608   29.62962963    -1.483332177   0.9987523389  401    882.3100137
32 0.3   3.315394696   8.24742268  -2.583168621 0.9578262852 12.11111111 80.81453927
32 1.0   0.9995120761  0.9696969697   -1.371358606   0.7071067812  2      3.761248852
32 5.0   0.1999960939  0.03995006242  -1.018530739   0.1961161351  1.04   1.078901062
32 80.0  0.01249999905 0.0001562492371 -1.000073239 0.01249902355 1.00015625 1.000302756
"""
GOLDEN = [tuple(map(float, line.split())) for line in GOLDEN.strip().splitlines()]


def gaussian(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def random_case(sigma_data, batch=6):
    """A clip, noise, noise levels from 0.002 to 80, and any output of a network."""
    clip = sigma_data * gaussian(0, batch, 2, 3, 4, 1)
    sigma = jnp.asarray(np.geomspace(0.002, 80, batch))
    return clip, gaussian(1, *clip.shape), sigma, gaussian(2, *clip.shape)


def denoised(edm, clip, eps, sigma, output):
    return edm.denoised(edm.corrupt(clip, eps, broadcast(sigma, clip)), output, sigma)


@pytest.mark.parametrize("x64, tolerance", [(True, 1e-9), (False, 1e-6)])
def test_every_function_has_the_values_of_the_golden_table(x64, tolerance):
    with jax.enable_x64(x64):
        for sigma_in, sigma, *values in GOLDEN:
            edm = EDM(sigma_in=sigma_in, sigma_data=1.0)
            for name, value in zip(FUNCTIONS, values, strict=True):
                got = getattr(edm, name)(jnp.asarray(sigma))
                assert got.dtype == (jnp.float64 if x64 else jnp.float32)
                np.testing.assert_allclose(
                    got, value, tolerance, err_msg=f"{name}, {sigma_in=}, {sigma=}"
                )


def test_the_golden_table_is_whole():
    assert len(GOLDEN) == 18
    assert {row[0] for row in GOLDEN} == {1, 4, 32}


@pytest.mark.parametrize("sigma_data", [0.5, 1.0])
def test_at_sigma_in_1_the_denoiser_is_the_original_with_the_output_negated(sigma_data):
    with jax.enable_x64(True):
        edm = EDM(sigma_in=1.0, sigma_data=sigma_data)
        clip, eps, sigma, output = random_case(sigma_data)
        noisy = edm.corrupt(clip, eps, broadcast(sigma, clip))
        got = edm.denoised(noisy, -output, sigma)
        level = np.asarray(broadcast(sigma, clip))
        total = level**2 + sigma_data**2
        c_skip, c_out = sigma_data**2 / total, level * sigma_data / np.sqrt(total)
        np.testing.assert_allclose(noisy, clip + level * eps, rtol=1e-12)
        np.testing.assert_allclose(got, c_skip * noisy + c_out * output, rtol=1e-12)
        np.testing.assert_allclose(edm.c_in(sigma), 1 / np.sqrt(total.ravel()), 1e-12)
        np.testing.assert_allclose(edm.effective_weight(sigma), 1.0, rtol=1e-12)


@pytest.mark.parametrize("sigma_in, sigma_data", SETTINGS)
def test_input_and_target_of_the_network_have_unit_variance(sigma_in, sigma_data):
    edm = EDM(sigma_in=sigma_in, sigma_data=sigma_data)
    clip, eps = sigma_data * gaussian(0, 6, 100_000), gaussian(1, 6, 100_000)
    sigma = broadcast(jnp.geomspace(0.002, 80, 6), clip)
    inputs = edm.c_in(sigma) * edm.corrupt(clip, eps, sigma)
    targets = edm.c_nrm(sigma) * edm.target(clip, eps, sigma)
    np.testing.assert_allclose(inputs.var(axis=1), 1, atol=0.03)
    np.testing.assert_allclose(targets.var(axis=1), 1, atol=0.03)


@pytest.mark.parametrize("sigma_in, sigma_data", SETTINGS)
def test_the_loss_is_the_weighted_error_of_the_denoised_clip(sigma_in, sigma_data):
    with jax.enable_x64(True):
        edm = EDM(sigma_in=sigma_in, sigma_data=sigma_data)
        clip, eps, sigma, output = random_case(sigma_data)
        error = np.asarray(denoised(edm, clip, eps, sigma, output) - clip)
        error = np.square(error).mean(axis=(1, 2, 3, 4))
        got = edm.loss(output, clip, eps, sigma)
        np.testing.assert_allclose(got, edm.loss_weight(sigma) * error, rtol=1e-7)
        factor = edm.loss_weight(sigma) * edm.c_out(sigma) ** 2
        np.testing.assert_allclose(edm.effective_weight(sigma), factor, rtol=1e-12)


@pytest.mark.parametrize("sigma_in, sigma_data", SETTINGS)
def test_the_target_as_output_gives_back_the_clip(sigma_in, sigma_data):
    with jax.enable_x64(True):
        edm = EDM(sigma_in=sigma_in, sigma_data=sigma_data)
        clip, eps, sigma, _ = random_case(sigma_data)
        level = broadcast(sigma, clip)
        output = edm.c_nrm(level) * edm.target(clip, eps, level)
        got = denoised(edm, clip, eps, sigma, output)
        np.testing.assert_allclose(got, clip, atol=1e-11)
        np.testing.assert_allclose(edm.loss(output, clip, eps, sigma), 0, atol=1e-20)


@pytest.mark.parametrize("sigma_in, sigma_data", SETTINGS)
def test_without_noise_the_denoiser_returns_its_input(sigma_in, sigma_data):
    # D - x = sigma_in sigma (eps - F) to first order in sigma, for any output F.
    with jax.enable_x64(True):
        edm = EDM(sigma_in=sigma_in, sigma_data=sigma_data)
        clip, eps, _, output = random_case(sigma_data)
        sigma = jnp.full(len(clip), 1e-7)
        error = denoised(edm, clip, eps, sigma, output) - clip
        assert jnp.abs(error).max() < 1e-4
        np.testing.assert_allclose(error / (sigma_in * 1e-7), eps - output, atol=1e-4)


def test_the_loss_of_a_sample_does_not_depend_on_the_rest_of_the_batch():
    clip, eps, sigma, output = random_case(1.0)
    together = EDM().loss(output, clip, eps, sigma)
    alone = [
        EDM().loss(*(array[i : i + 1] for array in (output, clip, eps, sigma)))[0]
        for i in range(len(clip))
    ]
    np.testing.assert_allclose(together, alone, rtol=1e-6)


def test_a_bfloat16_output_is_denoised_in_float32():
    clip, eps, sigma, output = random_case(1.0)
    output = output.astype(jnp.bfloat16)
    assert denoised(EDM(), clip, eps, sigma, output).dtype == jnp.float32
    assert EDM().loss(output, clip, eps, sigma).dtype == jnp.float32


def test_c_noise_is_a_quarter_of_the_logarithm_of_the_noise_level():
    sigma = jnp.array([0.002, 1.0, 80.0])
    np.testing.assert_allclose(EDM().c_noise(sigma), np.log(sigma) / 4, rtol=1e-6)


def test_training_noise_levels_are_log_normal():
    keys = jax.random.split(jax.random.key(0), 20_000)
    for mean, std in [(-1.2, 1.2), (0.7, 1.6)]:
        log = np.log(EDM(p_mean=mean, p_std=std).training_sigma(keys))
        np.testing.assert_allclose(log.mean(), mean, atol=0.04)
        np.testing.assert_allclose(log.std(), std, rtol=0.02)
        standard = np.sort((log - mean) / std)
        ranks = np.searchsorted(standard, [-1.0, 0.0, 1.0]) / len(standard)
        np.testing.assert_allclose(ranks, [0.1587, 0.5, 0.8413], atol=0.012)
    assert (EDM().p_mean, EDM().p_std) == (-1.2, 1.2)


def test_a_noise_level_depends_on_its_key_only():
    keys = jax.random.split(jax.random.key(1), 8)
    sigma = EDM().training_sigma(keys)
    assert jnp.array_equal(EDM().training_sigma(keys[::-1]), sigma[::-1])
    np.testing.assert_allclose(EDM().training_sigma(keys[2:3]), sigma[2:3], rtol=1e-6)


def test_images_are_videos_of_the_same_framework():
    edm = EDM(sigma_in=4.0, image_sigma_in=1.0)
    assert edm.for_images() == edm


def test_images_that_are_not_videos_have_their_own_sigma_in():
    edm = EDM(sigma_in=4.0, sigma_data=0.5, images_as_videos=False, image_sigma_in=1.5)
    assert edm.for_images().sigma_in == 1.5
    assert edm.for_images().sigma_data == 0.5
    assert edm.sigma_in == 4.0


@pytest.mark.parametrize(
    "name", ["sigma_in", "sigma_data", "p_std", "rho", "image_sigma_in"]
)
def test_a_scale_must_be_positive(name):
    with pytest.raises(ValueError, match=f"diffusion.{name}=-1.0 must be positive"):
        EDM(**{name: -1.0})


@pytest.mark.parametrize("low, high", [(0.0, 80.0), (2.0, 2.0), (90.0, 80.0)])
def test_the_range_of_noise_levels_must_be_one(low, high):
    message = f"sigma_min={low} must lie between 0 and diffusion.sigma_max={high}"
    with pytest.raises(ValueError, match=message):
        EDM(sigma_min=low, sigma_max=high)
