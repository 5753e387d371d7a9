"""Snapshots of power-function EMAs, saved during training for `posthoc_ema`.

They are in ``<workdir>/ema`` and are never removed. Each holds the averages of all
widths after a step, and manifests of its files (`integrity`). They are combined a few
parameters of one step at a time, after all files were verified.
"""

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import v1 as ocp

from snapvideo_jax.io import json_lines
from snapvideo_jax.io.errors import first_line
from snapvideo_jax.io.json_lines import truncate_after
from snapvideo_jax.io.messages import human_bytes
from snapvideo_jax.state import abstract_state
from snapvideo_jax.training.checkpoints import integrity
from snapvideo_jax.training.run_folder import RunFolder

logger = logging.getLogger(__name__)

CHUNK_BYTES = 2**30
"""Bytes of parameters, in float64, that are combined at a time."""


class UnreadableSnapshot(RuntimeError):
    """A snapshot is missing or damaged.

    Args:
      step: of the snapshot.
      reason: what is damaged, in a line.
    """

    def __init__(self, step: int, reason: str):
        super().__init__(f"The snapshot of step {step} cannot be read: {reason}")
        self.step = step


class EmaSnapshots:
    """Writes the snapshots of a run; none without ``optimizer.ema_widths``.

    ``<workdir>/ema_snapshots.jsonl`` lists them. Steps after the one that a run resumes
    from are removed from the list, and overwritten when the run reaches them.
    """

    def __init__(self, experiment, folder: RunFolder):
        optimizer = experiment.optimizer
        self._widths = optimizer.ema_widths
        self._steps = frozenset(optimizer.snapshots())
        self._checkpointer = None
        self._unlisted: int | None = None
        if not self._widths:
            return
        self._list, self._is_writer = folder.ema_list, folder.is_writer
        if folder.is_writer:
            truncate_after(self._list, folder.first)
        self._folder = folder.ema
        context = ocp.Context()
        stored = jnp.dtype(optimizer.ema_snapshot_dtype)
        context.array.saving.storage_options.dtype = stored
        self._checkpointer = ocp.training.Checkpointer(
            self._folder.absolute(),
            context=context,
            cleanup_tmp_directories=True,
        )

    def save_missing(self, step: int, state) -> None:
        """Saves the snapshot of the step that a run resumes from, if it is missing.

        A run may have been killed between the checkpoint and the snapshot.
        """
        if self.due(step) and step not in self._existing():
            self.save(step, state)

    def due(self, step: int) -> bool:
        """True if a snapshot is due after this step."""
        return step in self._steps

    def save(self, step: int, state) -> None:
        """Starts to write a snapshot and returns once ``state`` may be donated."""
        self.wait()
        tracks = dict(zip(map(str, self._widths), state.powers, strict=True))
        self._checkpointer.save_checkpointables_async(
            step, {"tracks": tracks}, force=True, overwrite=step in self._existing()
        )
        self._unlisted = step
        if self._is_writer:
            with self._list.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps({"step": step}) + "\n")

    def wait(self) -> None:
        """Waits until all snapshots are committed and have manifests."""
        if self._checkpointer:
            self._checkpointer.wait()
        if self._unlisted is not None:
            folder = self._folder / str(self._unlisted)
            integrity.write_manifest(folder, jax.process_index(), jax.process_count())
            self._unlisted = None

    def close(self) -> None:
        if self._checkpointer:
            self.wait()
            self._checkpointer.close()

    def _existing(self) -> set[int]:
        return {found.step for found in self._checkpointer.checkpoints}


class EmaSnapshotReader(contextlib.AbstractContextManager):
    """Reads the snapshots of a workdir.

    Attributes:
      widths: of the averages in each snapshot.
      steps: of the saved snapshots; some may be unreadable.

    Raises:
      ValueError: the run tracks no power-function EMA, or has no snapshot yet.
    """

    def __init__(self, experiment, workdir: Path):
        self.widths = experiment.optimizer.ema_widths
        folder = RunFolder(workdir)
        if not self.widths:
            raise ValueError(
                f"--workdir={workdir} tracks no power-function averages; train with "
                "optimizer.ema_widths=(0.05,0.1) and optimizer.ema_snapshot_steps."
            )
        self.steps = sorted({line["step"] for line in json_lines.read(folder.ema_list)})
        if not self.steps:
            raise ValueError(
                f"--workdir={workdir} has no snapshot yet; the first is saved after "
                f"step {experiment.optimizer.snapshots()[0]}."
            )
        self.shapes = nn.unbox(abstract_state(experiment)).params
        self._folder = folder.ema
        self._checkpointer = ocp.training.Checkpointer(self._folder.absolute())

    def __exit__(self, *exception: object) -> None:
        self._checkpointer.close()

    def existing_steps(self) -> list[int]:
        """Steps of the snapshots that exist; they may still be damaged."""
        present = {found.step for found in self._checkpointer.checkpoints}
        return [step for step in self.steps if step in present]

    def combine(self, weights: Mapping[int, Mapping[float, float]]) -> Any:
        """The weighted sum of averages, as a tree of float32 parameters on the host.

        Peak memory is the result, `CHUNK_BYTES` bytes, and what is read of a snapshot.

        Args:
          weights: by step, then by width of the average.

        Raises:
          UnreadableSnapshot: names the first step that cannot be read.
        """
        for step in weights:
            if reason := integrity.find_damage(self._folder / str(step)):
                raise UnreadableSnapshot(step, reason)
        leaves, tree = jax.tree.flatten(self.shapes)
        result: list = [None] * len(leaves)
        for part in _parts(leaves):
            sums = {index: np.zeros(leaves[index].shape) for index in part}
            for step, of_width in weights.items():
                read = self._read(step, tree, part)
                for width, weight in of_width.items():
                    for index in part:
                        sums[index] += weight * np.asarray(
                            read[str(width)][index], np.float64
                        )
            for index in part:
                result[index] = sums.pop(index).astype(np.float32)
        return jax.tree.unflatten(tree, result)

    def _read(self, step: int, tree, part: list[int]) -> dict[str, list]:
        """Some leaves of all averages of a step, by width."""
        leaves = jax.tree.leaves(self.shapes)
        host = jax.sharding.SingleDeviceSharding(jax.devices("cpu")[0])
        wanted = [ocp.PLACEHOLDER] * len(leaves)
        for index in part:
            shape = leaves[index].shape
            wanted[index] = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=host)
        like = {str(width): jax.tree.unflatten(tree, wanted) for width in self.widths}
        try:
            read = self._checkpointer.load_checkpointables(step, {"tracks": like})
        except Exception as error:  # Orbax and TensorStore raise all sorts of them.
            reason = first_line(error.__cause__ or error)
            raise UnreadableSnapshot(step, reason) from error
        return {
            width: jax.tree.leaves(track, is_leaf=lambda leaf: leaf is ...)
            for width, track in read["tracks"].items()
        }


def _parts(leaves) -> Iterator[list[int]]:
    """Numbers of leaves that are combined together, in order."""
    part: list[int] = []
    size = 0
    for index, leaf in enumerate(leaves):
        if part and size + 8 * leaf.size > CHUNK_BYTES:
            yield part
            part, size = [], 0
        part.append(index)
        size += 8 * leaf.size
    yield part


def budget(experiment) -> dict[str, Any]:
    """What the snapshots of a whole run take on disk, before any is made."""
    optimizer = experiment.optimizer
    shapes = nn.unbox(abstract_state(experiment)).params
    parameters = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    item = jnp.dtype(optimizer.ema_snapshot_dtype).itemsize
    count, each = len(optimizer.snapshots()), parameters * item
    return {
        "widths": list(optimizer.ema_widths),
        "snapshots": count,
        "bytes_each": each * len(optimizer.ema_widths),
        "bytes": each * len(optimizer.ema_widths) * count,
    }


def describe_budget(found: Mapping[str, Any]) -> str:
    """The budget in a line, for people."""
    widths = ", ".join(map(str, found["widths"]))
    return (
        f"{found['snapshots']:,} of the widths {widths}, "
        f"{human_bytes(found['bytes_each'])} each: "
        f"{human_bytes(found['bytes'], 4)} of disk"
    )
