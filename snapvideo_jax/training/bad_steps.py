"""Bad steps: a non-finite loss or gradient, or a spike, ends the run or is skipped."""

import json
import logging
import math

import numpy as np

from snapvideo_jax.io.errors import RunStopped
from snapvideo_jax.io.json_lines import finite, read, truncate_after
from snapvideo_jax.parallel.sharding import to_host
from snapvideo_jax.state import GOOD, SPIKE
from snapvideo_jax.training.run_folder import RunFolder

logger = logging.getLogger(__name__)


class NonFiniteLoss(RunStopped):
    """The loss or the gradient of a step was infinite or NaN."""

    exit_code = 3


class SpikingGradient(NonFiniteLoss):
    """The gradient norm of a step was far above the running median."""


class BadSteps:
    """Handles steps that `state.verdict_on` found bad, on the host.

    Skipped steps are listed in ``<workdir>/skipped_steps.jsonl``: step, reason, loss,
    gradient norm, running median, and numbers of the samples without a finite loss.
    Lines of steps after ``folder.first`` are removed, as in the metrics.

    Attributes:
      skips: whether bad steps are skipped; otherwise the first one ends the run.
      count: of skipped steps, in process 0.
    """

    def __init__(self, optimizer, folder: RunFolder):
        self.skips = optimizer.on_bad_step == "skip"
        self._factor = optimizer.spike_factor
        self._path = folder.path / "skipped_steps.jsonl"
        self._is_writer = folder.is_writer
        self._seen = folder.first or 0
        self.count = 0
        if folder.is_writer and self._path.exists():
            truncate_after(self._path, folder.first)
            self.count = len(read(self._path))

    def check(self, step: int, metrics) -> None:
        """Waits for a step and handles its verdict; once for each step.

        All processes have to call it for the same steps: they gather the samples of a
        bad one.

        Raises:
          NonFiniteLoss: its loss or gradient was not finite, and it was not skipped.
          SpikingGradient: its gradient spiked, and it was not skipped.
        """
        if step <= self._seen:
            return
        self._seen = step
        if int(metrics["verdict"]) == GOOD:
            return
        about = _about(step, metrics)
        if not self.skips:
            raise self._error(about)
        self.count += 1
        line = finite(about)
        logger.warning("Step %d is skipped: %s", step, line)
        if self._is_writer:
            with self._path.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(line, allow_nan=False) + "\n")

    def _error(self, about) -> NonFiniteLoss:
        step, norm = about["step"], about["grad_norm"]
        cure = (
            "The newest checkpoint remains; lower optimizer.learning_rate, inspect the "
            "data of that step, or skip it with optimizer.on_bad_step=skip."
        )
        if about["reason"] == "spike":
            return SpikingGradient(
                f"The gradient of step {step} has a norm of {norm:.4g}, more than "
                f"optimizer.spike_factor={self._factor:g} times {about['median']:.4g}, "
                f"the median of the steps before. {cure}"
            )
        if about["reason"] == "gradient":
            return NonFiniteLoss(f"The gradient of step {step} is {norm}. {cure}")
        numbers = about["samples"]
        named = f" (of samples {numbers[:5]})" if numbers else ""
        return NonFiniteLoss(
            f"The loss of step {step} is {about['loss']}{named}. {cure}"
        )


def _about(step: int, metrics) -> dict:
    """The report of a bad step; its reason is "loss", "gradient" or "spike"."""
    loss, median = float(metrics["loss"]), float(metrics["median_norm"])
    losses = to_host(metrics["samples"]["loss"])
    numbers = to_host(metrics["samples"]["number"])
    reason = "loss" if not math.isfinite(loss) else "gradient"
    return {
        "step": step,
        "reason": "spike" if int(metrics["verdict"]) == SPIKE else reason,
        "loss": loss,
        "grad_norm": float(metrics["grad_norm"]),
        "median": median or None,  # 0 until there are enough steps
        "samples": sorted(numbers[~np.isfinite(losses)].tolist()),
    }
