"""The state before a step and its batch, rebuilt from an earlier checkpoint.

All randomness is a function of seed, step and sample, so an earlier checkpoint is
enough: the steps between are recomputed by the program that training ran. On the same
number of devices of the same kind everything is bit-equal.
"""

import dataclasses
import functools
import logging
import math
import shutil
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh

from snapvideo_jax import config as configs
from snapvideo_jax.config import Experiment
from snapvideo_jax.data import JointSource, make_joint_source, seek, split_dataset
from snapvideo_jax.data.unusable import list_path
from snapvideo_jax.parallel.layout_report import checked_shardings
from snapvideo_jax.parallel.sharding import (
    batch_sharding,
    make_mesh,
    put_batch,
    put_key,
    with_shardings,
)
from snapvideo_jax.state import TrainState, abstract_state
from snapvideo_jax.step import jit_train_step
from snapvideo_jax.training import ledger
from snapvideo_jax.training.checkpoints import warm_start
from snapvideo_jax.training.checkpoints.checkpoints import Checkpoints
from snapvideo_jax.training.ledger import Entry
from snapvideo_jax.training.run_folder import RunFolder
from snapvideo_jax.types import Batch, RawBatch, embedded

logger = logging.getLogger(__name__)

TOLERANCE = 1e-4
"""Relative difference of losses due to other devices or another order of sums."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReplayOptions:
    """Which step is replayed, and what is shown of it.

    Attributes:
      workdir: folder of the run.
      step: updates after it, from 1.
      samples: rows of the batch to look into; None for those of the largest losses.
      from_checkpoint: takes the checkpoint's state as an approximation of the state
        before the step, and recomputes nothing.
      out: folder of the report; None for ``replay/STEP`` in the workdir.
      overrides: "--config.a.b=value", of fields that a resumed run may change.
    """

    workdir: Path
    step: int
    samples: Sequence[int] | None = None
    from_checkpoint: bool = False
    out: Path | None = None
    overrides: Sequence[str] = ()

    @property
    def folder(self) -> Path:
        """Where the report is written."""
        return self.out or self.workdir / "replay" / f"{self.step:07d}"

    def check(self, experiment: Experiment) -> None:
        """Checks step and rows.

        Raises:
          ValueError: the run has no such step, or the batch no such row.
        """
        last = experiment.optimizer.steps
        if not 1 <= self.step <= last:
            raise ValueError(
                f"--step={self.step} is not a step of the run; use 1 to {last}."
            )
        for row in self.samples or ():
            if not 0 <= row < experiment.data.batch:
                raise ValueError(
                    f"--samples={row} is not in the batch; use 0 to "
                    f"{experiment.data.batch - 1}."
                )


@dataclasses.dataclass(frozen=True)
class SampleMismatch:
    """A sample that differs from the ledger.

    row: in the batch.
    sample: number in the global sequence.
    file: that it is loaded from now.
    reason: what has changed, as far as the ledger shows.
    """

    row: int
    sample: int
    file: str
    reason: str


@dataclasses.dataclass
class RebuiltStep:
    """A step, ready to be inspected and replayed.

    Attributes:
      experiment, mesh: of the replay.
      joint: the global sample sequence.
      step: that is replayed, from 1.
      begun_at: step of the checkpoint, 0 for the initial state.
      approximate: whether the state is that of ``begun_at`` and not the one before
        ``step``.
      state: before the step.
      rows, moved: the batch on the host, as in `types.Fetched`.
      batch: on the devices, with text embeddings.
      key: of the run.
      recorded: the ledger's entry; None without one.
      update: the train step; it donates the state.
    """

    experiment: Any
    mesh: Mesh
    joint: JointSource
    step: int
    begun_at: int
    approximate: bool
    state: TrainState
    rows: RawBatch
    moved: np.ndarray
    batch: Batch
    key: Any
    recorded: Entry | None
    update: Any

    @property
    def rerun(self) -> int:
        """Number of recomputed steps before the state."""
        return 0 if self.approximate else self.step - 1 - self.begun_at

    @functools.cached_property
    def digest(self) -> str:
        """Digest of the batch as it is now."""
        return ledger.batch_digest(ledger.sample_digests(self.rows))

    def differences(self) -> list[SampleMismatch]:
        """Samples that differ from the ledger."""
        if not self.recorded or self.digest == self.recorded.digest:
            return []
        found = []
        for row, digest in enumerate(ledger.sample_digests(self.rows).tolist()):
            if digest != self.recorded.samples.get(row):
                number = int(self.rows["sample"][row])
                file, _ = self.joint.sample_caption(number)
                found.append(SampleMismatch(row, number, file, self._reason(row)))
        return found

    def _reason(self, row: int) -> str:
        if row not in self.recorded.samples:
            return "the ledger has no line of the process that had it"
        then, now = self.recorded.moved.get(row, 0), int(self.moved[row])
        if then != now:
            return (
                f"it was loaded from the file {then} places after its first choice, "
                f"now from the one {now} after: files were repaired, or damaged"
            )
        return "its file, its caption or the caption's embedding has changed"

    def loss_and_norm(self) -> tuple[float, float]:
        """Runs the step; the state is donated."""
        self.state, metrics = self.update(self.state, self.batch, self.key)
        return float(metrics["loss"]), float(metrics["grad_norm"])


def agreement(recorded: float, replayed: float) -> str:
    """Compares a number in the ledger with the replayed one."""
    if recorded == replayed or not (math.isfinite(recorded) or math.isfinite(replayed)):
        return "equal"
    if math.isclose(recorded, replayed, rel_tol=TOLERANCE):
        return f"within {TOLERANCE:g}"
    return "different"


def rebuild(options: ReplayOptions) -> RebuiltStep:
    """A step of a run, rebuilt from the newest checkpoint before it.

    Files that cannot be used are listed in ``options.folder``.

    Raises:
      ValueError: there is no such run, step or row, or the config or the data cannot be
        used.
    """
    workdir, step = options.workdir, options.step
    experiment = configs.build(configs.of_workdir(workdir, options.overrides))
    options.check(experiment)
    mesh = make_mesh(experiment.mesh, experiment.data.batch)
    joint = _joint(experiment, workdir, options.folder)
    iterator = iter(split_dataset(joint, 0, 1, experiment.text))
    state, begun_at, shardings = _state(experiment, mesh, workdir, step - 1)
    update = jit_train_step(experiment, mesh, shardings)
    key = put_key(experiment.seed, mesh)
    embed, over_batch = experiment.text.on_devices(mesh), batch_sharding(mesh)
    first = step - 1 if options.from_checkpoint else begun_at
    seek(iterator, first)
    if first > begun_at:  # noise and dropout of a step are derived from its number
        number = jax.device_put(np.int32(first), state.step.sharding)
        state = state.replace(step=number)
    recorded = {each.step: each for each in ledger.read(workdir, first + 1, step)}
    for done in range(first + 1, step + 1):
        rows, moved = next(iterator)
        batch = embedded(put_batch(rows, over_batch), embed)
        if done < step:
            state, metrics = update(state, batch, key)
            _compare(done, rows, metrics, recorded.get(done))
    iterator.close()
    return RebuiltStep(
        experiment=experiment,
        mesh=mesh,
        joint=joint,
        step=step,
        begun_at=begun_at,
        approximate=first > begun_at,
        state=state,
        rows=rows,
        moved=moved,
        batch=batch,
        key=key,
        recorded=recorded.get(step),
        update=update,
    )


def _joint(experiment, workdir: Path, out: Path) -> JointSource:
    """The global sample sequence; skips what the run skipped; has its own list."""
    out.mkdir(parents=True, exist_ok=True)
    listed, ours = list_path(workdir, 0), out / "skipped.jsonl"
    ours.unlink(missing_ok=True)
    if listed.is_file():
        shutil.copy(listed, ours)
    return make_joint_source(experiment.data, experiment.seed, ours)


def _state(experiment, mesh: Mesh, workdir: Path, before: int):
    """The newest state of at most ``before`` updates, their number, its shardings."""
    boxed = abstract_state(experiment)
    shardings = checked_shardings(boxed, mesh)
    with closing(Checkpoints(workdir, until=before)) as checkpoints:
        begun_at = checkpoints.latest  # 0 for a run that began with a bundle
        if begun_at is not None:
            state = checkpoints.restore(with_shardings(nn.unbox(boxed), shardings))
            return state, begun_at, shardings
    if RunFolder(workdir).imported.is_file():
        raise ValueError(
            f"{workdir} began with imported weights, and its checkpoint of step 0 is "
            "deleted; use a step after the oldest checkpoint."
        )
    return warm_start.initial_state(experiment, mesh, shardings), 0, shardings


def _compare(done: int, rows, metrics, recorded: Entry | None) -> None:
    """Warns if a recomputed step differs from the ledger."""
    if recorded is None:
        return
    if ledger.batch_digest(ledger.sample_digests(rows)) != recorded.digest:
        logger.warning("The batch of step %d differs from the run's.", done)
    loss = float(metrics["loss"])
    if agreement(recorded.loss, loss) == "different":
        logger.warning("Step %d: loss %g, in the run %g.", done, loss, recorded.loss)
