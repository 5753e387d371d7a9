"""Metrics, sample sheets and the summary that a run writes while it trains."""

import contextlib
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from snapvideo_jax.data.unusable import check_share, list_path, merge_lists
from snapvideo_jax.models.flops import flops_per_sample
from snapvideo_jax.parallel.chips import peak_tflops
from snapvideo_jax.state import GOOD
from snapvideo_jax.step import BIN_EDGES
from snapvideo_jax.training.bad_steps import BadSteps
from snapvideo_jax.training.goodput import Goodput, RunSummary
from snapvideo_jax.training.metrics import MetricWriter
from snapvideo_jax.training.run_folder import RunFolder

logger = logging.getLogger(__name__)

Sheets = Callable[[int, Any], Iterable[tuple[str, np.ndarray]]]


class Monitor:
    """Writes metrics, sample sheets and the summary of a run.

    Args:
      experiment, mesh, folder: of the run.
      joint: the global sample sequence.
      goodput: the clock of the run.
      sheets: samples the sheets of a step, as `sampling.sheets.SheetSampler`.
    """

    def __init__(
        self,
        experiment,
        folder: RunFolder,
        mesh,
        joint,
        goodput: Goodput,
        sheets: Sheets,
    ):
        self._experiment, self._folder, self._mesh = experiment, folder, mesh
        self._joint, self._goodput, self._done = joint, goodput, folder.first
        self._sheets = sheets
        self._summary = RunSummary(folder, goodput)
        self._writer = MetricWriter(folder)
        self._flops = flops_per_sample(experiment)
        device = jax.devices()[0]
        self._peak = experiment.run.peak_tflops or peak_tflops(device.device_kind)
        self._bad = BadSteps(experiment.optimizer, folder)
        self._pending: list = []
        self._begin()

    def _begin(self) -> None:
        self._before, self._began = self._goodput.seconds(), self._goodput.wall()

    def after_step(self, done: int, state, metrics) -> None:
        """Stores the metrics of a step; writes them and a sheet where due."""
        # One step stays in flight, so that the devices never wait for the host.
        self.check_finite()
        self._pending.append((done, metrics))
        self._done = done
        last = done == self._folder.last
        if done % self._experiment.run.log_every_steps == 0 or last:
            self._log(done)
        every = self._experiment.sheets.every_steps
        if self._experiment.sheets.prompts and every and (done % every == 0 or last):
            with self._goodput.timing("evaluation"):
                fps = self._experiment.sheets.fps or 1.0
                for name, frames in self._sheets(done, state):
                    self._writer.write_video(done, f"samples/{name}", frames, fps)

    def check_finite(self) -> None:
        """Waits for the last step and handles its verdict (`BadSteps.check`)."""
        with self._goodput.timing("step"):
            for step, metrics in self._pending[-1:]:
                self._bad.check(step, metrics)

    def checkpoint_saved(self, done: int) -> None:
        """A checkpoint of step ``done`` is being written."""
        self._summary.saved(done)
        if self._folder.is_writer:
            self._summary.write(done)

    @contextlib.contextmanager
    def summarizing(self) -> Iterator[None]:
        """Writes and logs the summary at the end of the context, with its reason."""
        ended = "finished"
        try:
            yield
        except BaseException as error:
            ended = type(error).__name__
            raise
        finally:
            if self._folder.is_writer and self._done > self._folder.first:
                with contextlib.suppress(OSError):  # a full disk, reported elsewhere
                    self._summary.write(self._done, ended)
                self._summary.log()

    def close(self) -> None:
        self._writer.close()

    def _log(self, done: int) -> None:
        self.check_finite()
        steps = [metrics for _, metrics in self._pending]
        good = [m for m in steps if int(m["verdict"]) == GOOD] or steps
        spent = self._goodput.seconds()
        spent = {part: spent[part] - self._before[part] for part in spent}
        seconds = self._goodput.wall() - self._began - spent["evaluation"]
        clips = len(steps) * self._experiment.data.batch
        rate = self._flops * clips / seconds
        values = {
            "loss": np.mean([float(m["loss"]) for m in good]),
            "grad_norm": np.mean([float(m["grad_norm"]) for m in good]),
            "learning_rate": float(self._experiment.optimizer.schedule()(done - 1)),
            "clips_per_second": clips / seconds,
            "seconds_per_step": seconds / len(steps),
            "data_wait_share": spent["data"] / seconds,
            "model_tflops_per_second": rate / 1e12,
        } | _bin_means(good)
        if self._bad.skips:
            values["skipped_updates"] = self._bad.count
        shares = self._summary.shares()
        values["goodput"] = shares["step"]
        values |= {f"goodput/{part}": share for part, share in shares.items()}
        if self._peak:
            values["mfu"] = rate / (self._peak * 1e12 * self._mesh.size)
        if self._joint.filtered:
            values["filtered_files"] = self._joint.filtered
        if self._folder.is_writer:
            self._summary.write(done)
            skipped = merge_lists(self._folder.path)
            values["skipped_files"] = len(skipped)
        self._writer.write(done, values)
        if self._folder.is_writer:
            share = self._experiment.data.max_skipped_share
            check_share(skipped, share, list_path(self._folder.path, 0))
        logger.info(
            "step %d: loss %.4f, %.4g clips/s, %.1f %% of the time waiting for data",
            done,
            values["loss"],
            clips / seconds,
            100 * spent["data"] / seconds,
        )
        self._pending = []
        self._begin()


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
