"""Faults that runs meet, played with real processes on this machine.

`runner` starts the processes of a run and watches how far they are, `faults` says what
is done to them, `report` compares what is left with an undisturbed run and tells it,
`command` is the verb.
"""

from snapvideo_jax.training.rehearse.faults import FAULTS
from snapvideo_jax.training.rehearse.report import Outcome
from snapvideo_jax.training.rehearse.runner import RunProcesses, RunSetup

__all__ = ["FAULTS", "Outcome", "RunSetup", "RunProcesses"]
