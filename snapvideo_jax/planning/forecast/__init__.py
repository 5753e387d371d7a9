"""The time of a step on a TPU, forecast from a program compiled ahead of time."""

from snapvideo_jax.planning.forecast.calibration import (
    CALIBRATIONS,
    Calibration,
    calibrated,
)
from snapvideo_jax.planning.forecast.collectives import Collective
from snapvideo_jax.planning.forecast.costs import splash_kernels
from snapvideo_jax.planning.forecast.roofline import (
    Forecast,
    TimedInstruction,
    forecast,
)

__all__ = [
    "CALIBRATIONS",
    "Calibration",
    "Collective",
    "Forecast",
    "TimedInstruction",
    "calibrated",
    "forecast",
    "splash_kernels",
]
