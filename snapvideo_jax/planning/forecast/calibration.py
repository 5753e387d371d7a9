"""What was measured on TPUs, beside what is forecast for the same step."""

import dataclasses

from snapvideo_jax.parallel.chips import Chip
from snapvideo_jax.planning.forecast.roofline import Forecast


@dataclasses.dataclass(frozen=True)
class Calibration:
    """A published measurement of a training step, and this package's forecast of it.

    Attributes:
      model: what was trained, and how.
      published: its MFU, by the count of FLOPs that its source uses.
      forecast: the MFU that is forecast for the same step by the same count.
      source: where it was published.
    """

    model: str
    published: float
    forecast: float
    source: str

    @property
    def ratio(self) -> float:
        """Published speed over forecast speed."""
        return self.published / self.forecast


_SOURCE = "AI-Hypercomputer/maxtext, docs/reference/models/tiering.md"

CALIBRATIONS = {
    "v5p": Calibration("Llama 2 70B, 512 chips", 0.654, 0.702, _SOURCE),
    "v6e": Calibration("Llama 3.1 70B, 256 chips", 0.5033, 0.718, _SOURCE),
}
"""By the name of the chip. ``benchmarks/llama_step.py`` makes the forecasts; these are
of jax 0.10.2 with libtpu 0.0.42. By tokens per second, which the source rounds and
which do not depend on how operations are counted, v5p's ratio is 0.92, not 0.93."""


def calibrated(chip: Chip, forecast: Forecast) -> float:
    """Seconds of a step, if it keeps as far from its forecast as the published one.

    Raises:
      ValueError: nothing is published for the chip.
    """
    if chip.name not in CALIBRATIONS:
        raise ValueError(
            f"No measurement calibrates chip={chip.name}, only {list(CALIBRATIONS)}; "
            "give the forecast as it is."
        )
    return forecast.seconds / CALIBRATIONS[chip.name].ratio
