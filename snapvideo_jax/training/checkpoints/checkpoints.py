"""Checkpoints of a whole run: parameters, optimizer, EMA, step and data position.

Orbax writes them in the background and commits each by one rename, so a run that is
killed while it saves resumes from the checkpoint before. All randomness is derived from
the step, so nothing else is needed to resume exactly. Before a checkpoint is restored
its files are verified (`integrity`); a damaged one is moved away and the newest intact
one is used.

There may be two tiers: the durable folder in the workdir, and one on a fast local disk,
written more often. A run resumes from the newest checkpoint of either.
"""

import secrets
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from snapvideo_jax.io.files import write_atomically
from snapvideo_jax.parallel import coordinator
from snapvideo_jax.state import TrainState
from snapvideo_jax.training.checkpoints.folder import Tier, state_bytes


class Checkpoints:
    """The checkpoints of a workdir, in its folder ``checkpoints``.

    Args:
      workdir: of the run.
      every_steps: steps between checkpoints; 0 only reads, also from a run in progress.
      keep: number of newest checkpoints that are retained.
      keep_every_steps: checkpoints at multiples of this are never deleted; 0 for none.
      local: folder on a fast disk for a second tier, which retains only its newest
        checkpoint; "" for none.
      local_every_steps: steps between checkpoints of the second tier.
      until: ignores checkpoints of later steps; None ignores none.

    Raises:
      ValueError: all checkpoints are damaged; names a file of each. Or ``local`` is not
        a folder that all processes share.
    """

    def __init__(
        self,
        workdir: Path,
        every_steps: int = 0,
        keep: int = 1,
        keep_every_steps: int = 0,
        local: str = "",
        local_every_steps: int = 0,
        until: int | None = None,
    ):
        self._workdir, self._keep = workdir, keep
        self._durable = Tier(
            workdir / "checkpoints", every_steps, keep, keep_every_steps, until
        )
        self._tiers = [self._durable]
        self._local = None
        if local and every_steps:
            folder = _own_folder(workdir, Path(local))
            self._local = Tier(folder / "checkpoints", local_every_steps, 1, 0)
            self._tiers.append(self._local)
        broken = [each.broken for each in self._tiers if each.broken]
        if broken and self.latest is None:
            raise ValueError(
                f"{workdir} has no intact checkpoint: {'; '.join(broken)}. "
                "Restore one from a copy, or start again in another --workdir."
            )

    @property
    def latest(self) -> int | None:
        """Step of the newest intact checkpoint; None without one."""
        return max(
            (each.latest for each in self._tiers if each.latest is not None),
            default=None,
        )

    def due(self, step: int) -> bool:
        """True if ``save(step, ...)`` writes a checkpoint."""
        return any(each.due(step) for each in self._tiers)

    def save(
        self, step: int, state: TrainState, data: dict[str, Any], force: bool = False
    ) -> None:
        """Starts to write a checkpoint and returns once ``state`` may be donated.

        Args:
          step: number of updates in ``state``.
          state: written completely.
          data: the data iterator's state; its next batch is that of ``step``.
          force: writes to the durable tier even if no checkpoint is due.

        Raises:
          SaveFailed: this save failed, or the one before.
        """
        if force or self._durable.due(step):
            self._durable.save(step, state, data)
        elif self._local and self._local.due(step):
            self._local.save(step, state, data)

    def check_saves(self) -> None:
        """Raises the `SaveFailed` of a save in the background, if any; never waits."""
        for tier in self._tiers:
            tier.check()

    def check_room(self, state: TrainState) -> None:
        """Checks that the checkpoints of a run can be written.

        Args:
          state: shapes.

        Raises:
          ValueError: a folder is not writable, or has no space for one checkpoint.
        """
        size = state_bytes(state)
        self._durable.check_room(size, self._keep + 1, "--workdir")
        if self._local:
            self._local.check_room(size, 2, "run.local_folder")

    def restore(self, like: TrainState) -> TrainState:
        """The state in the newest checkpoint.

        Args:
          like: shapes and shardings (``jax.ShapeDtypeStruct``) of the state.
        """
        return self._load({"state": like}, self.latest)["state"]

    def restore_params(
        self, like: TrainState, ema: bool, step: int | None = None
    ) -> tuple[Any, int]:
        """The raw or EMA parameters of a checkpoint, and its step.

        Args:
          like: shapes and shardings of the state.
          ema: whether to return the EMA in place of the raw parameters.
          step: of the checkpoint; None for the newest.

        Raises:
          ValueError: the workdir has no checkpoint, none of ``step``, or that one is
            damaged.
        """
        saved = self._durable.steps()
        if self.latest is None:
            raise ValueError(
                f"--workdir={self._workdir} has no checkpoint; train first."
            )
        if step is not None and step not in saved:
            raise ValueError(
                f"{self._workdir} has no checkpoint of step {step}; it has those of "
                f"{sorted(saved)}."
            )
        checked = step is None or step == self._durable.latest
        if not checked and (wrong := self._durable.find_damage(step)):
            raise ValueError(
                f"The checkpoint of step {step} is damaged: {wrong}; use another step."
            )
        found = self.latest if step is None else step
        skip = jax.tree.map(lambda _: ocp.PLACEHOLDER, like)
        wanted = skip.replace(ema=like.ema) if ema else skip.replace(params=like.params)
        loaded = self._load({"state": wanted}, found)["state"]
        return (loaded.ema if ema else loaded.params), found

    def _load(self, wanted, step: int):
        """From the tier whose newest checkpoint is of ``step``, or the durable one."""
        newest = [each for each in self._tiers if each.latest == step]
        tier = (newest or [self._durable])[0]
        return ocp.load_checkpointables(tier.path(step), wanted)

    def wait(self) -> None:
        """Waits for running saves; raises `SaveFailed` if one fails."""
        for tier in self._tiers:
            tier.wait()

    def close(self) -> None:
        """Waits for running saves as `wait` does, and releases the folders."""
        try:
            self.wait()
        finally:
            for tier in self._tiers:
                tier.close()


def _own_folder(workdir: Path, local: Path) -> Path:
    """The folder of a run on the local disk, with a name that no other run has.

    A run that starts again in a new workdir does not find the checkpoints of the old.

    Raises:
      ValueError: not all processes share it.
    """
    path = workdir / "local_tier"
    if jax.process_index() == 0:
        if not path.is_file():
            write_atomically(path, f"{workdir.name}-{secrets.token_hex(8)}".encode())
        try:
            (local / path.read_text()).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"run.local_folder={local} is not writable ({error}); use another "
                "folder."
            ) from error
    coordinator.gather("snapvideo/local", "")
    folder = local / path.read_text()
    said = coordinator.gather("snapvideo/local/seen", str(int(folder.is_dir())))
    if "0" in said:
        raise ValueError(
            f"run.local_folder={local} is not shared by process {said.index('0')}; "
            "its checkpoints are complete only if all processes write to one folder."
        )
    return folder
