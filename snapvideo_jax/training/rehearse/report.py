"""Comparison of a run that met a fault with an undisturbed one."""

import dataclasses
import math
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from snapvideo_jax import config as configs
from snapvideo_jax.state import abstract_state
from snapvideo_jax.training import ledger
from snapvideo_jax.training.checkpoints.checkpoints import Checkpoints

TOLERANCE = 1e-4
"""Relative difference of losses due to another order of sums."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The outcome of one fault.

    Attributes:
      fault: its name.
      survived: whether the run ended as the undisturbed one.
      exact: comparison of the last states.
      steps_lost: steps that were recomputed after each restart.
      seconds_to_resume: from each restart to the first new step.
      detail: further notes, or why the run did not survive.
    """

    fault: str
    survived: bool
    exact: str = ""
    steps_lost: Sequence[int] = ()
    seconds_to_resume: Sequence[float] = ()
    detail: str = ""


def compare(ours: Path, theirs: Path, same_bits: bool) -> tuple[bool, str]:
    """Whether a run ended as another, and how close their last states are.

    Args:
      ours, theirs: workdirs of finished runs.
      same_bits: whether states must be equal bit by bit; else losses may differ by
        `TOLERANCE`.
    """
    mine, other = (list(ledger.read(each)) for each in (ours, theirs))
    if [x.step for x in mine] != [x.step for x in other]:
        return False, f"the ledger has {len(mine)} steps, not {len(other)}"
    for x, y in zip(mine, other, strict=True):
        if x.digest != y.digest:
            return False, f"step {x.step} had another batch"
    state, wanted = last_state(ours), last_state(theirs)
    changed = [
        name
        for name, leaf in wanted.items()
        if not np.array_equal(state[name], leaf, equal_nan=True)
    ]
    if not changed:
        return True, "bit-equal"
    name = changed[0]
    if same_bits:
        return False, f"{len(changed)} arrays differ, as {name}"
    apart = abs(mine[-1].loss - other[-1].loss) / max(abs(other[-1].loss), 1e-30)
    largest = max(_apart(state[name], wanted[name]) for name in changed)
    return apart <= TOLERANCE, f"loss within {apart:.1e}, state within {largest:.1e}"


def last_state(workdir: Path) -> dict[str, np.ndarray]:
    """All arrays of a run's last state, by name."""
    experiment = configs.build(configs.of_workdir(workdir))
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        nn.unbox(abstract_state(experiment)),
    )
    with closing(Checkpoints(workdir)) as checkpoints:
        state = checkpoints.restore(like)
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def describe(outcome: Outcome) -> str:
    """One line."""
    word = "survived" if outcome.survived else "NOT SURVIVED"
    parts = [f"{outcome.fault:<13}{word}"]
    if outcome.seconds_to_resume:
        lost, seconds = outcome.steps_lost, outcome.seconds_to_resume
        parts.append(
            f"steps lost {_range(lost, 'd')}, resumed in {_range(seconds, '.1f')} s, "
            f"{len(seconds)} time{'s'[: len(seconds) > 1]}"
        )
    parts += [outcome.exact, outcome.detail]
    return "; ".join(filter(None, parts))


def table(outcomes: Sequence[Outcome]) -> str:
    """All outcomes as a text table."""
    rows = [("fault", "survived", "steps lost", "resumed in", "state")]
    for each in outcomes:
        seconds = each.seconds_to_resume
        rows.append(
            (
                each.fault,
                "yes" if each.survived else "NO",
                _range(each.steps_lost, "d") or "-",
                f"{_range(seconds, '.1f')} s" if seconds else "-",
                each.exact or "-",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )


def as_json(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """All outcomes as values of JSON."""
    return [dataclasses.asdict(each) for each in outcomes]


def _range(values: Sequence[float], form: str) -> str:
    if not values:
        return ""
    low, high = min(values), max(values)
    return f"{low:{form}}" if low == high else f"{low:{form}} to {high:{form}}"


def _apart(ours: np.ndarray, theirs: np.ndarray) -> float:
    with np.errstate(all="ignore"):
        apart = np.abs(ours.astype(np.float64) - theirs.astype(np.float64))
    return math.inf if np.isnan(apart).any() else float(apart.max(initial=0))
