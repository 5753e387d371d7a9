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
      every_steps: steps between checkpoints; 0 only reads, also of a run in progress.
      keep: newest ones that are kept.
      keep_every_steps: checkpoints at multiples of this are kept for good; 0 for none.
      local: folder on a fast disk for a second tier, of which the newest one is kept;
        "" for none.
      local_every_steps: steps between its checkpoints.
      until: looks only at checkpoints up to this step; None for all.

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
        return self._load({"state": like}, self.latest)["state"]

    def restore_params(
        self, like: TrainState, ema: bool, step: int | None = None
    ) -> tuple[Any, int]:
        """The (EMA) parameters of a checkpoint, the newest if not told, and its step.

        Raises:
          ValueError: the workdir has no checkpoint, none of ``step``, or that one is
            damaged.
        """
        kept = self._durable.steps()
        if self.latest is None:
            raise ValueError(
                f"--workdir={self._workdir} has no checkpoint; train first."
            )
        if step is not None and step not in kept:
            raise ValueError(
                f"{self._workdir} has no checkpoint of step {step}; it has those of "
                f"{sorted(kept)}."
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
        """From the tier whose newest checkpoint is that of ``step``, or the durable."""
        newest = [each for each in self._tiers if each.latest == step]
        tier = (newest or [self._durable])[0]
        return ocp.load_checkpointables(tier.path(step), wanted)

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


def _own_folder(workdir: Path, local: Path) -> Path:
    """The folder of a run on the local disk, under a name that no other run has.

    A workdir that was begun anew does not find what an earlier run left there.

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
                f"run.local_folder={local} cannot be written ({error}); use a folder "
                "that can."
            ) from error
    coordinator.gather("snapvideo/local", "")
    folder = local / path.read_text()
    said = coordinator.gather("snapvideo/local/seen", str(int(folder.is_dir())))
    if "0" in said:
        raise ValueError(
            f"run.local_folder={local} is not shared by process {said.index('0')}; "
            "its checkpoints are whole only where all processes write to one folder."
        )
    return folder
