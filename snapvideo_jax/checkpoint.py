"""Checkpoints of a whole run: parameters, optimizer, EMA, step and data position.

Orbax writes them in the background and puts each in place by one rename, so a run that
is killed while it saves finds the checkpoint before it. What is random is derived from
the step, so nothing else is needed to continue exactly. Before one is read all of its
files are compared with what was written (`manifest`); one that is damaged is put aside
and the newest whole one is used.

There may be two tiers: a folder on a fast disk of the machine, written often, beside
the durable one in the workdir. Both are alike, and the newest checkpoint of either is
the one that a run goes on from.
"""

import json
import logging
import secrets
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from snapvideo_jax import distributed, manifest, memory
from snapvideo_jax.ending import SaveFailed, is_full
from snapvideo_jax.files import write_whole
from snapvideo_jax.step import TrainState

logger = logging.getLogger(__name__)

_keep = ocp.training.preservation_policies
_save = ocp.training.save_decision_policies

DAMAGED = "damaged"
"""The folder beside the checkpoints of a tier in which damaged ones are kept."""


class Checkpoints:
    """The checkpoints of a workdir, in its folder ``checkpoints``.

    Args:
      workdir: of the run.
      every_steps: steps between checkpoints; 0 only reads, also of a run in progress.
      keep: newest ones that are kept.
      keep_every_steps: checkpoints at multiples of this are kept for good; 0 for none.
      local: folder on a fast disk for a second tier, of which the newest one is kept;
        "" for none.
      local_every_steps: steps between its checkpoints.

    Raises:
      ValueError: there are checkpoints, and all are damaged; names a file of each. Or
        ``local`` is not a folder that all processes share.
    """

    def __init__(
        self,
        workdir: Path,
        every_steps: int = 0,
        keep: int = 1,
        keep_every_steps: int = 0,
        local: str = "",
        local_every_steps: int = 0,
    ):
        self._workdir, self._keep = workdir, keep
        self._durable = _Tier(
            workdir / "checkpoints", every_steps, keep, keep_every_steps
        )
        self._tiers = [self._durable]
        self._local = None
        if local and every_steps:
            folder = _own_folder(workdir, Path(local))
            self._local = _Tier(folder / "checkpoints", local_every_steps, 1, 0)
            self._tiers.append(self._local)
        broken = [each.broken for each in self._tiers if each.broken]
        if broken and self.latest is None:
            raise ValueError(
                f"{workdir} has no checkpoint that is whole: {'; '.join(broken)}. "
                "Restore one from a copy, or use another --workdir to begin anew."
            )

    @property
    def latest(self) -> int | None:
        """Step of the newest checkpoint, None where there is none."""
        return max(
            (each.latest for each in self._tiers if each.latest is not None),
            default=None,
        )

    def due(self, step: int) -> bool:
        """True where ``save(step, ...)`` would write a checkpoint."""
        return any(each.due(step) for each in self._tiers)

    def save(
        self, step: int, state: TrainState, data: dict[str, Any], force: bool = False
    ) -> None:
        """Begins to write a checkpoint and returns once ``state`` may be donated.

        Args:
          step: number of updates that ``state`` has seen.
          state: all of it is written.
          data: the data iterator's state; its next batch is that of ``step``.
          force: also where none is due, to the durable tier.

        Raises:
          SaveFailed: this one, or the one before.
        """
        if force or self._durable.due(step):
            self._durable.save(step, state, data)
        elif self._local and self._local.due(step):
            self._local.save(step, state, data)

    def check_saves(self) -> None:
        """Looks whether a checkpoint that was being written has failed; waits for none.

        Raises:
          SaveFailed: it has.
        """
        for tier in self._tiers:
            tier.check()

    def check_room(self, state: TrainState) -> None:
        """Looks whether the checkpoints of a run can be written.

        Args:
          state: shapes.

        Raises:
          ValueError: a folder cannot be written, or has no room for one checkpoint.
        """
        size = state_bytes(state)
        self._durable.check_room(size, self._keep + 1, "--workdir")
        if self._local:
            self._local.check_room(size, 2, "run.local_folder")

    def restore(self, like: TrainState) -> TrainState:
        """The newest checkpoint, laid out like ``like``.

        Args:
          like: shapes and shardings (``jax.ShapeDtypeStruct``) of the state.
        """
        return self._load({"state": like})["state"]

    def restore_params(self, like: TrainState, ema: bool) -> tuple[Any, int]:
        """The (EMA) parameters of the newest checkpoint, and its step.

        Raises:
          ValueError: the workdir has no checkpoint.
        """
        latest = self.latest
        if latest is None:
            raise ValueError(
                f"--workdir={self._workdir} has no checkpoint; train first."
            )
        skip = jax.tree.map(lambda _: ocp.PLACEHOLDER, like)
        wanted = skip.replace(ema=like.ema) if ema else skip.replace(params=like.params)
        loaded = self._load({"state": wanted})["state"]
        return (loaded.ema if ema else loaded.params), latest

    def _load(self, wanted):
        latest = self.latest
        tier = next(each for each in self._tiers if each.latest == latest)
        return ocp.load_checkpointables(tier.path(latest), wanted)

    def wait(self) -> None:
        """Waits for the checkpoints that are being written.

        Raises:
          SaveFailed: one could not be.
        """
        for tier in self._tiers:
            tier.wait()

    def close(self) -> None:
        """Waits for the checkpoints that are being written, and ends.

        Raises:
          SaveFailed: one could not be.
        """
        try:
            self.wait()
        finally:
            for tier in self._tiers:
                tier.close()


class _Tier:
    """Checkpoints in one folder, the newest of which is known to be whole.

    Attributes:
      latest: its step, None where there is none.
      broken: what is wrong with the newest one that is not whole; "" for nothing.
    """

    def __init__(self, folder: Path, every_steps: int, keep: int, keep_every: int):
        self._folder = folder.absolute()
        self._every = every_steps
        self._saving: _Saving | None = None
        self._has_failed = False
        self.latest, self.broken = self._newest_whole()
        self._checkpointer = None
        if not every_steps:
            return
        memory.keep_flat()
        policies = [_keep.LatestN(keep)]
        if keep_every:
            policies.append(_keep.EveryNSteps(keep_every))
        tier = ocp.options.MultiprocessingOptions(
            barrier_sync_key_prefix=f"{folder.parent.name}-"
        )
        self._checkpointer = ocp.training.Checkpointer(
            self._folder,
            context=ocp.Context(multiprocessing_options=tier),
            save_decision_policy=_save.FixedIntervalPolicy(every_steps),
            preservation_policy=_keep.AnyPreservationPolicy(policies),
            # What was left half written by a killed run, not by one that still writes.
            cleanup_tmp_directories=True,
        )

    def path(self, step: int) -> Path:
        return self._folder / str(step)

    def due(self, step: int) -> bool:
        return step % self._every == 0 and step != self.latest

    def save(self, step: int, state: TrainState, data: dict[str, Any]) -> None:
        self.wait()
        if step == self.latest:
            return
        try:
            response = self._checkpointer.save_checkpointables_async(
                step,
                {"state": state},
                custom_metadata={"data": data},
                force=True,
            )
        except Exception as error:
            raise self._failed(step, error, state_bytes(state)) from error
        self._saving = _Saving(step, self.path(step), response, state_bytes(state))
        self.latest = step

    def check(self) -> None:
        if self._saving and not self._saving.is_alive():
            self.wait()

    def wait(self) -> None:
        saving, self._saving = self._saving, None
        if saving:
            saving.join()
            if saving.error:
                error = self._failed(saving.step, saving.error, saving.size)
                raise error from saving.error

    def close(self) -> None:
        if not self._checkpointer:
            return
        try:
            self._checkpointer.close()
        except Exception:
            if not self._has_failed:  # Orbax raises again what was told before
                raise
        if self._has_failed:  # only now nothing is written any more
            self._remove_unfinished()

    def check_room(self, size: int, states: int, setting: str) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            with tempfile.NamedTemporaryFile(dir=self._folder, prefix=".room"):
                free = shutil.disk_usage(self._folder).free
        except OSError as error:
            raise ValueError(
                f"{setting}: checkpoints cannot be written to {self._folder} "
                f"({error}); use a folder that can be written."
            ) from error
        there = [path for path in self._folder.iterdir() if path.name.isdigit()]
        wanted = max(states * size - manifest.total(there), size)
        told = (
            f"{setting}: {self._folder} has {_size(free)} free, and {states} "
            f"checkpoints of {_size(size)} need {_size(wanted)} more"
        )
        if free < size:
            raise ValueError(f"{told}; make room, or use another folder.")
        if free < wanted:
            logger.warning("%s; the disk will be full before the run ends.", told)

    def _newest_whole(self) -> tuple[int | None, str]:
        """The step of the newest checkpoint that is whole; others are put aside."""
        first = ""
        # A run in progress may add one meanwhile; all look at what process 0 sees.
        steps = json.dumps(sorted(self._steps(), reverse=True))
        (seen, *_) = distributed.gather(f"snapvideo/steps/{self._folder}", steps)
        for step in json.loads(seen):
            said = distributed.gather(
                f"snapvideo/whole/{self._folder}/{step}",
                manifest.problem(
                    self.path(step), jax.process_index(), jax.process_count()
                ),
            )
            wrong = next(filter(None, said), "")
            if not wrong:
                if first:
                    logger.error("Using the checkpoint of step %d in its place.", step)
                if self._every and not manifest.is_listed(self.path(step)):
                    self._list(step)
                return step, first
            first = first or wrong
            logger.error("The checkpoint of step %d is damaged: %s.", step, wrong)
            if self._every:
                self._put_aside(step)
        return None, first

    def _steps(self) -> list[int]:
        if not self._folder.is_dir():
            return []
        return [
            int(path.name) for path in self._folder.iterdir() if path.name.isdigit()
        ]

    def _list(self, step: int) -> None:
        """Lists the files of a checkpoint that an earlier run had no time to list."""
        logger.warning(
            "The files of checkpoint %d were not listed; now they are.", step
        )
        distributed.gather(f"snapvideo/list/{self._folder}", "")  # all have looked
        if jax.process_index() == 0:
            manifest.forget(self.path(step))
        distributed.gather(f"snapvideo/listed/{self._folder}", "")
        manifest.write(self.path(step), jax.process_index(), jax.process_count())

    def _put_aside(self, step: int) -> None:
        aside = self._folder.parent / DAMAGED
        if jax.process_index() == 0:
            aside.mkdir(exist_ok=True)
            names = (f"{step}{end}" for end in ("", *(f"-{n}" for n in range(1, 1000))))
            name = next(name for name in names if not (aside / name).exists())
            self.path(step).rename(aside / name)
            logger.error("It is kept as %s.", aside / name)
        distributed.gather(f"snapvideo/aside/{self._folder}/{step}", "")

    def _remove_unfinished(self) -> None:
        """Removes what a save that failed has left."""
        for path in self._folder.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(path, ignore_errors=True)

    def _failed(self, step: int, error: BaseException, size: int) -> SaveFailed:
        """The error of a checkpoint; which one is kept."""
        self._has_failed = True
        self.latest = max((one for one in self._steps() if one != step), default=None)
        kept = "no checkpoint is kept yet"
        if self.latest is not None:
            kept = f"the checkpoint of step {self.latest} is kept"
        why, cure = f"{type(error).__name__}: {_first_line(error)}", "Correct this"
        if is_full(error):
            free = shutil.disk_usage(self._folder).free
            why = (
                f"the disk takes no more ({_first_line(error)}); it needs "
                f"{_size(size)}, and {self._folder} has {_size(free)} free"
            )
            cure = "Make room there"
        return SaveFailed(
            f"The checkpoint of step {step} could not be saved: {why}; {kept}. {cure}, "
            "and start the same command again."
        )


class _Saving(threading.Thread):
    """A checkpoint that is being written, then listed; keeps the error, if any."""

    def __init__(self, step: int, path: Path, response, size: int):
        super().__init__(daemon=True)
        self.step, self.size = step, size
        self.error: Exception | None = None
        self._path, self._response = path, response
        self.start()

    def run(self) -> None:
        try:
            self._response.result()
            manifest.write(self._path, jax.process_index(), jax.process_count())
        except Exception as error:
            self.error = error


def state_bytes(state: TrainState) -> int:
    """Bytes of all arrays of a state, or of its shapes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))


def _own_folder(workdir: Path, local: Path) -> Path:
    """The folder of a run on the local disk, under a name that no other run has.

    A workdir that was begun anew does not find what an earlier run left there.

    Raises:
      ValueError: not all processes share it.
    """
    path = workdir / "local_tier"
    if jax.process_index() == 0:
        if not path.is_file():
            write_whole(path, f"{workdir.name}-{secrets.token_hex(8)}".encode())
        try:
            (local / path.read_text()).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"run.local_folder={local} cannot be written ({error}); use a folder "
                "that can."
            ) from error
    distributed.gather("snapvideo/local", "")
    folder = local / path.read_text()
    said = distributed.gather("snapvideo/local/seen", str(int(folder.is_dir())))
    if "0" in said:
        raise ValueError(
            f"run.local_folder={local} is not shared by process {said.index('0')}; "
            "its checkpoints are whole only where all processes write to one folder."
        )
    return folder


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]


def _size(size: float) -> str:
    return f"{size / 1e6:,.3g} MB" if size < 1e9 else f"{size / 1e9:,.3g} GB"
