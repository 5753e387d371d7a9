"""Sample sheets of a run: fixed prompts and fixed noise, sampled while it trains."""

import logging
from collections.abc import Iterator

import numpy as np
from jaxtyping import UInt8

from snapvideo_jax.config import Experiment
from snapvideo_jax.sampling.generator import Generator, Request
from snapvideo_jax.sampling.options import resolution_of
from snapvideo_jax.sampling.outputs import write_sheet
from snapvideo_jax.training.run_folder import RunFolder

logger = logging.getLogger(__name__)


class SheetSampler:
    """Samples the prompts of ``config.sheets`` from the raw and the EMA weights.

    The sampler is compiled at the first call. All processes call it; one writes.

    Args:
      experiment, mesh: of the run.
      folder: of the run; sheets go to its folder ``sheets``.
    """

    def __init__(self, experiment: Experiment, mesh, folder: RunFolder):
        self._experiment, self._mesh = experiment, mesh
        self._folder, self._is_writer = folder.path / "sheets", folder.is_writer
        self._generator = None

    def __call__(
        self, step: int, state
    ) -> Iterator[tuple[str, UInt8[np.ndarray, "t h w 3"]]]:
        """Writes the sheets of a step, and yields them where they are written.

        Args:
          step: names the files.
          state: a `state.TrainState`.

        Yields:
          "raw" or "ema", and the frames of the sheet.
        """
        sheets = self._experiment.sheets
        if self._generator is None:
            self._generator = Generator(
                self._experiment, self._experiment.sampler, self._mesh
            )
        request = Request(
            prompts=sheets.prompts,
            numbers=range(len(sheets.prompts)),
            seed=0,
            guidance=sheets.guidance,
            fps=sheets.fps,
            resolution=resolution_of(self._experiment),
        )
        for name, params in (("raw", state.params), ("ema", state.ema)):
            clips = self._generator(params, request)
            if not self._is_writer:
                continue
            self._folder.mkdir(exist_ok=True)
            stem = self._folder / f"{step:07d}-{name}"
            yield name, write_sheet(stem, clips, sheets.prompts, sheets)
        if self._is_writer:
            logger.info("step %d: sheet %s.gif", step, stem)
