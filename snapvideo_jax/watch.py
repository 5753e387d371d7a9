"""What is written of a run while it trains: metrics and sample sheets."""

import itertools
import logging
import time
from pathlib import Path

import jax
import numpy as np

from snapvideo_jax import sample
from snapvideo_jax.chips import peak_tflops
from snapvideo_jax.data.skipped import check_share, gather, list_of
from snapvideo_jax.flops import flops_per_sample
from snapvideo_jax.metrics import MetricWriter
from snapvideo_jax.step import BIN_EDGES

logger = logging.getLogger(__name__)


class NonFiniteLoss(RuntimeError):
    """The loss of a step was infinite or not a number."""

    exit_code = 3


class Watch:
    """What is written of a run while it trains: metrics and sample sheets."""

    def __init__(
        self, experiment, workdir: Path, mesh, first: int, is_writer: bool, joint
    ):
        self._experiment, self._workdir, self._mesh = experiment, workdir, mesh
        self._joint = joint
        self._writer = MetricWriter(workdir, is_writer, resume_step=first)
        self._is_writer = is_writer
        self._flops = flops_per_sample(experiment)
        device = jax.devices()[0]
        self._peak = experiment.run.peak_tflops or peak_tflops(device.device_kind)
        self._pending: list = []
        self._generator = None
        self._begin()

    def _begin(self) -> None:
        self._waited, self._began = 0.0, time.monotonic()

    def waiting(self):
        """A context that counts the time spent in it as waiting for data."""
        return _Stopwatch(self)

    def after_step(self, done: int, state, metrics) -> None:
        """Keeps the metrics of a step; writes them and a sheet where they are due."""
        # One step is left in flight, so that the host never holds up the device.
        if self._pending:
            self._check(*self._pending[-1])
        self._pending.append((done, metrics))
        last = done == self._experiment.optimizer.steps
        if done % self._experiment.run.log_every_steps == 0 or last:
            self._log(done)
        every = self._experiment.sheets.every_steps
        if self._experiment.sheets.prompts and every and (done % every == 0 or last):
            self._sheet(done, state)

    def check_finite(self) -> None:
        """Waits for the last step and looks at its loss."""
        for step, metrics in self._pending[-1:]:
            self._check(step, metrics)

    def close(self) -> None:
        self._writer.close()

    def _check(self, step: int, metrics) -> None:
        loss = float(metrics["loss"])
        if not np.isfinite(loss):
            raise NonFiniteLoss(
                f"The loss of step {step} is {loss}. The newest checkpoint is kept; "
                f"lower optimizer.learning_rate or look at the data of that step."
            )

    def _log(self, done: int) -> None:
        steps = [metrics for _, metrics in self._pending]
        self.check_finite()
        seconds = time.monotonic() - self._began
        clips = len(steps) * self._experiment.data.batch
        rate = self._flops * clips / seconds
        values = {
            "loss": np.mean([float(m["loss"]) for m in steps]),
            "grad_norm": np.mean([float(m["grad_norm"]) for m in steps]),
            "learning_rate": float(self._experiment.optimizer.schedule()(done - 1)),
            "clips_per_second": clips / seconds,
            "seconds_per_step": seconds / len(steps),
            "data_wait_share": self._waited / seconds,
            "model_tflops_per_second": rate / 1e12,
        } | _bin_means(steps)
        if self._peak:
            values["mfu"] = rate / (self._peak * 1e12 * self._mesh.size)
        if self._joint.filtered:
            values["filtered_files"] = self._joint.filtered
        if self._is_writer:
            skipped = gather(self._workdir)
            values["skipped_files"] = len(skipped)
        self._writer.write(done, values)
        if self._is_writer:
            share = self._experiment.data.max_skipped_share
            check_share(skipped, share, list_of(self._workdir, 0))
        logger.info(
            "step %d: loss %.4f, %.4g clips/s, %.1f %% of the time waiting for data",
            done,
            values["loss"],
            clips / seconds,
            100 * self._waited / seconds,
        )
        self._pending = []
        self._begin()

    def _sheet(self, done: int, state) -> None:
        """Samples the fixed prompts from raw and EMA weights."""
        began = time.monotonic()
        sheets = self._experiment.sheets
        if self._generator is None:
            self._generator = sample.Generator(
                self._experiment, self._experiment.sampler, self._mesh
            )
        request = sample.Request(
            prompts=sheets.prompts,
            numbers=range(len(sheets.prompts)),
            seed=0,
            guidance=sheets.guidance,
            fps=sheets.fps,
            resolution=sample.resolution_of(self._experiment),
        )
        for name, params in (("raw", state.params), ("ema", state.ema)):
            clips = self._generator(params, request)
            if not self._is_writer:
                continue
            folder = self._workdir / "sheets"
            folder.mkdir(exist_ok=True)
            stem = folder / f"{done:07d}-{name}"
            frames = sample.write_sheet(stem, clips, sheets.prompts, sheets)
            self._writer.write_video(done, f"samples/{name}", frames, sheets.fps or 1.0)
        if self._is_writer:
            logger.info("step %d: sheet %s.gif", done, stem)
        self._began += time.monotonic() - began


class _Stopwatch:
    def __init__(self, watch: Watch):
        self._watch = watch

    def __enter__(self):
        self._began = time.monotonic()

    def __exit__(self, *exception):
        self._watch._waited += time.monotonic() - self._began


def _bin_means(steps) -> dict[str, float]:
    """Mean loss by kind and noise bin; bins without a sample are left out."""
    total = np.sum([np.asarray(m["loss_sum"]) for m in steps], axis=0)
    count = np.sum([np.asarray(m["loss_count"]) for m in steps], axis=0)
    edges = ("0", *map(str, BIN_EDGES), "inf")
    bins = [f"sigma_{low}_to_{high}" for low, high in itertools.pairwise(edges)]
    return {
        f"loss/{kind}/{bins[bin]}": float(total[row, bin] / n)
        for row, kind in enumerate(("video", "image"))
        for bin, n in enumerate(count[row])
        if n
    }
