"""Settings of logging, checkpoints and supervision of a run."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Run:
    """Settings of logging, checkpoints and supervision; they may change on resuming.

    Attributes:
      log_every_steps: steps that one line of metrics summarizes.
      checkpoint_every_steps: steps between checkpoints.
      keep: number of newest checkpoints that are retained.
      keep_every_steps: checkpoints at multiples of this are never deleted; 0 for none.
      peak_tflops: peak of one device for MFU, in bf16 TFLOP/s; 0 looks the device up,
        and reports no MFU for an unknown device.
      grace_seconds: time that saving may take on preemption, shorter than the
        platform's grace period, often 30 s.
      stall_minutes: time without a finished step after which stacks are logged; 0
        disables the watchdog.
      stall_compile_minutes: the same for starting, compiling, restoring and sheets.
      stall_ends: whether a run that stalls also ends, so that it can be restarted.
      local_folder: folder on a fast disk that all processes share, for checkpoints in
        addition to those of the workdir; "" for none.
      local_every_steps: steps between these; 0 for none.
      ledger_steps: newest steps that the batch ledger retains, rounded up to whole
        files; 0 disables it.
      init_from: workdir of a run, as DIR or DIR@STEP, whose averaged weights initialize
        this one, see `training.checkpoints.warm_start`; "" for none. Used before the
        first step only.
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
                    f"run.{name}={getattr(self, name)} is not a time; use more than 0."
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
