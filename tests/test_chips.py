"""The data sheet of each chip, and the chip of a device."""

import dataclasses

import pytest

from snapvideo_jax.parallel.chips import CHIPS, find_chip, peak_tflops

TPUS = ("v4", "v5e", "v5p", "v6e")


def test_the_longest_matching_name_decides_the_chip():
    assert (peak_tflops("TPU v5"), peak_tflops("TPU v5 lite")) == (459, 197)
    assert peak_tflops("NVIDIA H100 80GB HBM3") == 989
    assert find_chip("TPU v6 lite") is CHIPS["v6e"]


def test_an_unknown_device_has_no_chip_and_no_peak():
    assert peak_tflops("cpu") == 0 and find_chip("cpu") is None


@pytest.mark.parametrize("name", CHIPS)
def test_a_tpu_has_all_that_a_forecast_needs_and_a_gpu_only_its_peak(name):
    missing = [field for field, x in dataclasses.asdict(CHIPS[name]).items() if not x]
    assert missing == [] if name in TPUS else len(missing) == 6


@pytest.mark.parametrize(
    "name, units", [("v4", 8), ("v5e", 4), ("v5p", 8), ("v6e", 16)]
)
def test_the_inferred_clock_makes_whole_matrix_units_give_the_peak(name, units):
    # Units of 128 x 128, each cell one multiplication and addition a cycle; one of v6e
    # is 256 x 256 and counts as four.
    per_cycle = units * 2 * 128**2
    chip = CHIPS[name]
    assert chip.peak_tflops * 1e3 / chip.clock_ghz == pytest.approx(
        per_cycle, rel=0.005
    )
