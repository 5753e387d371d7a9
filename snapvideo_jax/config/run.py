"""How a run is watched and kept."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Run:
    """How a run is watched and kept; may change when it is resumed.

    Attributes:
      log_every_steps: steps that one line of metrics sums up.
      checkpoint_every_steps: steps between checkpoints.
      keep: newest checkpoints that are kept.
      keep_every_steps: checkpoints at multiples of this are kept for good; 0 for none.
      peak_tflops: peak of one device that MFU is measured against, in bf16 TFLOP/s; 0
        looks the device up, and reports no MFU where it is not known.
      grace_seconds: what a run that is told to stop may take to save; shorter than what
        the platform gives, often 30 s.
      stall_minutes: without a finished step after which stacks are logged; 0 for never.
      stall_compile_minutes: the same for starting, compiling, restoring and sheets.
      stall_ends: whether a run that stalls also ends, to be started again.
      local_folder: on a fast disk that all processes share, for checkpoints beside
        those of the workdir; "" for none.
      local_every_steps: steps between these; 0 for none.
      ledger_steps: newest steps that the batch ledger keeps, to a whole file of it; 0
        keeps none.
      init_from: workdir of a run, as DIR or DIR@STEP, whose averaged weights this one
        begins with, see `transplant`; "" for none. Looked at before the first step
        only.
    """

    log_every_steps: int = 100
    checkpoint_every_steps: int = 1000
    keep: int = 3
    keep_every_steps: int = 0
    peak_tflops: float = 0.0
    grace_seconds: float = 25.0
    stall_minutes: float = 20.0
    stall_compile_minutes: float = 90.0
    stall_ends: bool = False
    local_folder: str = ""
    local_every_steps: int = 0
    ledger_steps: int = 100_000
    init_from: str = ""

    def __post_init__(self):
        for name in ("log_every_steps", "checkpoint_every_steps", "keep"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"run.{name}={getattr(self, name)} is too small; use at least 1."
                )
        for name in ("grace_seconds", "stall_compile_minutes"):
            if not getattr(self, name) > 0:
                raise ValueError(
                    f"run.{name}={getattr(self, name)} is no time; use one above 0."
                )
        if not self.stall_minutes >= 0:
            raise ValueError(
                f"run.stall_minutes={self.stall_minutes} is below 0; use a time, or 0 "
                "for no watchdog."
            )
        if bool(self.local_folder) != (self.local_every_steps > 0):
            raise ValueError(
                f"run.local_folder={self.local_folder!r} and run.local_every_steps="
                f"{self.local_every_steps} do not go together; set both, or neither."
            )
        if self.ledger_steps < 0:
            raise ValueError(
                f"run.ledger_steps={self.ledger_steps} is below 0; use 0 for no ledger."
            )
