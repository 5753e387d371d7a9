"""Trains the runs of a sweep one after the other, and skips finished ones."""

import json
import logging
import time
from pathlib import Path
from typing import Any

import jax

from snapvideo_jax import config as configs
from snapvideo_jax.io.files import write_json
from snapvideo_jax.parallel import processes
from snapvideo_jax.scaling import sweep
from snapvideo_jax.scaling.sweep import SweepRun
from snapvideo_jax.scaling.validate import validate
from snapvideo_jax.train import train

logger = logging.getLogger(__name__)


def run_all(out: Path, part: tuple[int, int] = (0, 1), samples: int = 512) -> None:
    """Trains and validates the unfinished runs of a part of a sweep.

    Args:
      out: folder of the sweep.
      part: index and number of the parts: ``(1, 4)`` is every fourth run from the
        second.
      samples: of the validation; 2 or more.

    Raises:
      ValueError: as `sweep.read` and `train`.
    """
    planned, validation = sweep.read(out)
    for run in planned[part[0] :: part[1]]:
        path = _result(out, run)
        if path.is_file():
            logger.info("%s is finished.", run.name)
            continue
        workdir, began = out / "runs" / run.name, time.monotonic()
        processes.enable_compilation_cache(out)
        train(configs.from_json(json.dumps(run.config)), workdir)
        trained = time.monotonic() - began
        found = validate(workdir, Path(validation), samples)
        found |= {"name": run.name, "seconds": trained}
        if jax.process_index() == 0:
            write_json(path, found)
        logger.info("%s: loss %.4f, %.0f s", run.name, found["loss"], trained)


def results(out: Path) -> list[tuple[SweepRun, dict[str, Any]]]:
    """The finished runs with their results, as from `validate`."""
    planned, _ = sweep.read(out)
    return [
        (run, json.loads(path.read_text()))
        for run in planned
        if (path := _result(out, run)).is_file()
    ]


def _result(out: Path, run: SweepRun) -> Path:
    return out / "results" / f"{run.name}.json"
