"""A step of a run, made once more and looked into: `snapvideo replay`.

`rebuild` brings back the state before the step, the batch and the step itself, and
compares them with the ledger; `samples` looks into single samples; `command` is the
verb and what it prints and draws.
"""

from snapvideo_jax.training.replay.rebuild import RebuiltStep, rebuild

__all__ = ["RebuiltStep", "rebuild"]
