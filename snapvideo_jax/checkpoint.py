"""Checkpoints of a whole run: parameters, optimizer, EMA, step and data position.

Orbax writes them in the background and puts each in place by one rename, so a run that
is killed while it saves finds the checkpoint before it. What is random is derived from
the step, so nothing else is needed to continue exactly.
"""

from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from snapvideo_jax.step import TrainState

_keep = ocp.training.preservation_policies
_save = ocp.training.save_decision_policies


class Checkpoints:
    """The checkpoints of a workdir, in its folder ``checkpoints``.

    Args:
      workdir: of the run.
      every_steps: steps between checkpoints; 0 only reads, also of a run in progress.
      keep: newest ones that are kept.
      keep_every_steps: checkpoints at multiples of this are kept for good; 0 for none.
    """

    def __init__(
        self,
        workdir: Path,
        every_steps: int = 0,
        keep: int = 1,
        keep_every_steps: int = 0,
    ):
        policies = [_keep.LatestN(keep)]
        if keep_every_steps:
            policies.append(_keep.EveryNSteps(keep_every_steps))
        self._checkpointer = ocp.training.Checkpointer(
            (workdir / "checkpoints").absolute(),
            save_decision_policy=_save.FixedIntervalPolicy(max(every_steps, 1)),
            preservation_policy=_keep.AnyPreservationPolicy(policies),
            # What was left half written by a killed run, not by one that still writes.
            cleanup_tmp_directories=every_steps > 0,
        )

    @property
    def latest(self) -> int | None:
        """Step of the newest checkpoint, None where there is none."""
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    def due(self, step: int) -> bool:
        """True where ``save(step, ...)`` would write a checkpoint."""
        return self._checkpointer.should_save(step)

    def save(
        self, step: int, state: TrainState, data: dict[str, Any], force: bool = False
    ) -> None:
        """Begins to write a checkpoint and returns once ``state`` may be donated.

        Args:
          step: number of updates that ``state`` has seen.
          state: all of it is written.
          data: the data iterator's state; its next batch is that of ``step``.
          force: also where none is due.
        """
        self._checkpointer.save_checkpointables_async(
            step,
            {"state": state},
            custom_metadata={"data": data},
            force=force,
        )

    def restore(self, like: TrainState) -> TrainState:
        """The newest checkpoint, laid out like ``like``.

        Args:
          like: shapes and shardings (``jax.ShapeDtypeStruct``) of the state.
        """
        latest = self._checkpointer.latest
        return self._checkpointer.load_checkpointables(latest, {"state": like})["state"]

    def restore_params(
        self, like: TrainState, ema: bool, step: int | None = None
    ) -> tuple[Any, int]:
        """The (EMA) parameters of a checkpoint, the newest if not told, and its step.

        Raises:
          ValueError: the workdir has no checkpoint, or none of ``step``.
        """
        folder = Path(self._checkpointer.directory).parent
        kept = {each.step: each for each in self._checkpointer.checkpoints}
        if not kept:
            raise ValueError(f"--workdir={folder} has no checkpoint; train first.")
        if step is not None and step not in kept:
            raise ValueError(
                f"{folder} has no checkpoint of step {step}; it has those of "
                f"{list(kept)}."
            )
        found = kept[max(kept) if step is None else step]
        skip = jax.tree.map(lambda _: ocp.PLACEHOLDER, like)
        wanted = skip.replace(ema=like.ema) if ema else skip.replace(params=like.params)
        loaded = self._checkpointer.load_checkpointables(found, {"state": wanted})
        return (loaded["state"].ema if ema else loaded["state"].params), found.step

    def close(self) -> None:
        """Waits for the checkpoint that is being written."""
        self._checkpointer.close()
