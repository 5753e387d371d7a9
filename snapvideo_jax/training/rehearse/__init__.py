"""Faults that runs meet on pods, rehearsed with real processes on this machine.

`runner` starts the processes of a run and follows their progress, `faults` disturbs
them, `report` compares the result with an undisturbed run, `rehearsal` does all of it.
"""

from snapvideo_jax.training.rehearse.faults import FAULTS
from snapvideo_jax.training.rehearse.rehearsal import RehearseOptions, rehearse
from snapvideo_jax.training.rehearse.report import Outcome
from snapvideo_jax.training.rehearse.runner import RunProcesses, RunSetup

__all__ = [
    "FAULTS",
    "Outcome",
    "RehearseOptions",
    "RunProcesses",
    "RunSetup",
    "rehearse",
]
