"""Checkpoints in one folder: saved in the background, verified before use."""

import errno
import json
import logging
import os
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from snapvideo_jax.io.errors import SaveFailed, first_line, is_disk_full
from snapvideo_jax.io.messages import human_bytes
from snapvideo_jax.parallel import coordinator, host_memory
from snapvideo_jax.state import TrainState
from snapvideo_jax.training.checkpoints import integrity

logger = logging.getLogger(__name__)

_keep = ocp.training.preservation_policies
_save = ocp.training.save_decision_policies

DAMAGED = "damaged"
"""Folder next to the checkpoints of a tier, to which damaged ones are moved."""


class Tier:
    """Checkpoints in one folder, the newest of which was verified.

    Attributes:
      latest: step of the newest intact checkpoint up to ``until``; None without one.
      broken: damage of the newest damaged checkpoint; "" without one.
    """

    def __init__(
        self,
        folder: Path,
        every_steps: int,
        keep: int,
        keep_every: int,
        until: int | None = None,
    ):
        self._folder, self._until = folder.absolute(), until
        self._every = every_steps
        self._saving: _Saving | None = None
        self._has_failed = False
        self.latest, self.broken = self._newest_intact()
        self._checkpointer = None
        if not every_steps:
            return
        host_memory.use_one_heap()
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
            # Those of a killed run; no other run writes here.
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
        self._check_free(step, state_bytes(state))
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
            if not self._has_failed:  # Orbax raises the same error again
                raise
        if self._has_failed:  # nothing is being written from here on
            self._remove_unfinished()

    def check_room(self, size: int, states: int, setting: str) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            with tempfile.NamedTemporaryFile(dir=self._folder, prefix=".room"):
                free = shutil.disk_usage(self._folder).free
        except OSError as error:
            raise ValueError(
                f"{setting}: checkpoints cannot be written to {self._folder} "
                f"({error}); use a writable folder."
            ) from error
        present = [path for path in self._folder.iterdir() if path.name.isdigit()]
        wanted = max(states * size - integrity.total_bytes(present), size)
        room = (
            f"{setting}: {self._folder} has {human_bytes(free)} free, and {states} "
            f"checkpoints of {human_bytes(size)} need {human_bytes(wanted)} more"
        )
        if free < size:
            raise ValueError(f"{room}; free some space, or use another folder.")
        if free < wanted:
            logger.warning("%s; the disk will be full before the run ends.", room)

    def _check_free(self, step: int, size: int) -> None:
        """Checks the free space before a save, so that all processes fail alike.

        If one of them fails while it writes, Orbax makes the others wait for it.
        """
        if shutil.disk_usage(self._folder).free < size:
            full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            raise self._failed(step, full, size)

    def _newest_intact(self) -> tuple[int | None, str]:
        """Step of the newest intact checkpoint; moves damaged ones away."""
        first = ""
        # A run in progress may add one meanwhile; all use the list of process 0.
        steps = json.dumps(sorted(self.steps(), reverse=True))
        (seen, *_) = coordinator.gather(f"snapvideo/steps/{self._folder}", steps)
        for step in json.loads(seen):
            wrong = self.find_damage(step)
            if not wrong:
                if first:
                    logger.error("Using the checkpoint of step %d instead.", step)
                if self._every and not integrity.has_manifest(self.path(step)):
                    self._list(step)
                return step, first
            first = first or wrong
            logger.error("The checkpoint of step %d is damaged: %s.", step, wrong)
            if self._every:
                self._move_away(step)
        return None, first

    def find_damage(self, step: int) -> str:
        """The damage that any process finds in a checkpoint; "" for none."""
        mine = integrity.find_damage(
            self.path(step), jax.process_index(), jax.process_count()
        )
        said = coordinator.gather(f"snapvideo/whole/{self._folder}/{step}", mine)
        return next(filter(None, said), "")

    def steps(self) -> list[int]:
        if not self._folder.is_dir():
            return []
        return [
            int(path.name)
            for path in self._folder.iterdir()
            if path.name.isdigit()
            and (self._until is None or int(path.name) <= self._until)
        ]

    def _list(self, step: int) -> None:
        """Writes the manifest of a checkpoint whose run was killed before it could."""
        logger.warning("Checkpoint %d had no manifest; writing it now.", step)
        coordinator.gather(f"snapvideo/list/{self._folder}", "")  # all have verified it
        if jax.process_index() == 0:
            integrity.remove_manifests(self.path(step))
        coordinator.gather(f"snapvideo/listed/{self._folder}", "")
        _write_manifest(self.path(step))

    def _move_away(self, step: int) -> None:
        aside = self._folder.parent / DAMAGED
        if jax.process_index() == 0:
            aside.mkdir(exist_ok=True)
            names = (f"{step}{end}" for end in ("", *(f"-{n}" for n in range(1, 1000))))
            name = next(name for name in names if not (aside / name).exists())
            self.path(step).rename(aside / name)
            logger.error("It is moved to %s.", aside / name)
        coordinator.gather(f"snapvideo/aside/{self._folder}/{step}", "")

    def _remove_unfinished(self) -> None:
        """Removes the files of a failed save."""
        for path in self._folder.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(path, ignore_errors=True)

    def _failed(self, step: int, error: BaseException, size: int) -> SaveFailed:
        """The error of a save; names the newest checkpoint that remains."""
        self._has_failed = True
        self.latest = max((one for one in self.steps() if one != step), default=None)
        rest = "there is no earlier checkpoint"
        if self.latest is not None:
            rest = f"the checkpoint of step {self.latest} remains"
        why, cure = f"{type(error).__name__}: {first_line(error)}", "Correct this"
        if is_disk_full(error):
            free = shutil.disk_usage(self._folder).free
            why = (
                f"the disk is full ({first_line(error)}); it needs "
                f"{human_bytes(size)}, and {self._folder} has "
                f"{human_bytes(free)} free"
            )
            cure = "Free some space there"
        return SaveFailed(
            f"The checkpoint of step {step} could not be saved: {why}; {rest}. {cure}, "
            "and run the same command to resume."
        )


class _Saving(threading.Thread):
    """A checkpoint that is being written, then its manifest; stores the error."""

    def __init__(self, step: int, path: Path, response, size: int):
        super().__init__(daemon=True)
        self.step, self.size = step, size
        self.error: Exception | None = None
        self._path, self._response = path, response
        self.start()

    def run(self) -> None:
        try:
            self._response.result()
            _write_manifest(self._path)
        except Exception as error:
            self.error = error
        del self._response  # frees the copy of the state that it holds
        host_memory.release_free_pages()


def _write_manifest(folder: Path) -> None:
    integrity.write_manifest(folder, jax.process_index(), jax.process_count())


def state_bytes(state: TrainState) -> int:
    """Bytes of all arrays of a state, or of its shapes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
