"""Published step times on TPUs compared with the forecasts for the same steps."""

import dataclasses

from snapvideo_jax.parallel.chips import Chip
from snapvideo_jax.planning.forecast.roofline import Forecast


@dataclasses.dataclass(frozen=True)
class Calibration:
    """A published measurement of a training step, and this package's forecast of it.

    Attributes:
      model: the network and the number of chips.
      published: its MFU, by the source's count of FLOPs.
      forecast: the forecast MFU of the same step by the same count.
      source: of the measurement.
    """

    model: str
    published: float
    forecast: float
    source: str

    @property
    def ratio(self) -> float:
        """Published over forecast speed."""
        return self.published / self.forecast


_SOURCE = "AI-Hypercomputer/maxtext, docs/reference/models/tiering.md"

CALIBRATIONS = {
    "v5p": Calibration("Llama 2 70B, 512 chips", 0.654, 0.702, _SOURCE),
    "v6e": Calibration("Llama 3.1 70B, 256 chips", 0.5033, 0.718, _SOURCE),
}
"""By chip. The forecasts are those of ``benchmarks/llama_step.py`` with jax 0.10.2 and
libtpu 0.0.42. By tokens per second, which the source rounds and which do not depend on
the count of FLOPs, v5p's ratio is 0.92, not 0.93."""


def calibrated(chip: Chip, forecast: Forecast) -> float:
    """Seconds of a step at the published ratio of measured to forecast speed.

    Raises:
      ValueError: there is no published measurement for the chip.
    """
    if chip.name not in CALIBRATIONS:
        raise ValueError(
            f"There is no calibration for chip={chip.name}, only for "
            f"{list(CALIBRATIONS)}; use the forecast without calibration."
        )
    return forecast.seconds / CALIBRATIONS[chip.name].ratio
