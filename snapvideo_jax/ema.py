"""The verb `snapvideo ema`: averages of any length, made after a run has been trained.

Two averages are tracked while training and kept every so many steps. The average of
another length is a weighted sum of all of them, and `profiles` tells the weights and
how far its profile is from the one that was asked for.
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from orbax.checkpoint import v1 as ocp

from snapvideo_jax import config as configs
from snapvideo_jax import profiles
from snapvideo_jax.profiles import Average
from snapvideo_jax.snapshots import (
    SnapshotReader,
    UnreadableSnapshot,
    budget,
    describe_budget,
)

logger = logging.getLogger(__name__)

LENGTHS = (0.03, 0.04, 0.05, 0.06, 0.075, 0.1, 0.125, 0.15, 0.2, 0.25)
"""What a plan tells the errors of where no lengths are asked for."""
TRIED = np.geomspace(0.003, 0.99 * profiles.WIDEST, 200).tolist()
"""Lengths among which those are looked for that snapshots can give."""


def run(arguments) -> None:
    """`snapvideo ema`."""
    with configs.user_errors():
        experiment, workdir = _experiment(arguments)
        if arguments.plan:
            _print(plan(experiment, workdir, arguments), arguments.json)
            return
        if workdir is None:
            raise ValueError("--workdir is missing; --config can only be planned.")
        _check_lengths(arguments)
        with SnapshotReader(experiment, workdir) as reader:
            made = make(reader, workdir, arguments)
        if arguments.json:
            print(json.dumps(made))
            return
        for each in made:
            print(
                f"{each['folder']}  error of the profile {each['error']:.2%}, as wide "
                f"as a half-life of {each['half_life']:,.0f} steps"
            )


def make(reader: SnapshotReader, workdir: Path, arguments) -> list[dict[str, Any]]:
    """Writes the averages that the command line asks for, and tells of each.

    A snapshot that cannot be read is named and left out, and all is solved anew.

    Raises:
      ValueError: what is left cannot give a length, or the step has no snapshot.
    """
    steps = _present(reader)
    while True:
        try:
            until = _until(steps, arguments.step)
            return _made(reader, until, workdir, arguments)
        except UnreadableSnapshot as error:
            logger.warning("%s It is left out.", error)
            steps = [step for step in steps if step != error.step]


def _made(reader, steps: list[int], workdir: Path, arguments) -> list[dict[str, Any]]:
    """The same of these snapshots, at the last of them."""
    out, last = Path(arguments.out or workdir / "ema_profiles"), steps[-1]
    averages = [Average(w, s) for s in steps for w in reader.widths]
    wanted = [Average(length, last) for length in _lengths(arguments, last)]
    solutions = [_solved(averages, each, arguments.most_error) for each in wanted]
    made = []
    for each, solution in zip(wanted, solutions, strict=True):
        weights: dict[int, dict[float, float]] = {step: {} for step in steps}
        for average, weight in zip(averages, solution.weights, strict=True):
            weights[average.step][average.width] = float(weight)
        about = _about(each, solution, steps)
        folder = out / f"{each.width:.6g}-at-{last}"
        ocp.save_checkpointables(
            folder.absolute(),
            {"params": reader.combine(weights)},
            overwrite=True,
            custom_metadata=about,
        )
        made.append({"folder": str(folder), **about})
    return made


def plan(experiment, workdir: Path | None, arguments) -> dict[str, Any]:
    """What the snapshots of a whole run take, and the errors of lengths they give.

    Raises:
      ValueError: the config has no power-function averages.
    """
    optimizer = experiment.optimizer
    if not optimizer.ema_widths:
        raise ValueError(
            "optimizer.ema_widths=() tracks nothing; use (0.05,0.1), and set "
            "optimizer.ema_snapshot_steps."
        )
    steps = _until(optimizer.snapshots(), arguments.step)
    averages = [Average(w, s) for s in steps for w in optimizer.ema_widths]
    last = steps[-1]
    lengths = _lengths(arguments, last) or LENGTHS
    wanted = [Average(length, last) for length in lengths]
    found = {"disk": budget(experiment), "step": last}
    if workdir is not None:
        files = [file for file in (workdir / "ema").rglob("*") if file.is_file()]
        found["bytes_there"] = sum(file.stat().st_size for file in files)
    found["lengths"] = [
        _about(each, solution, steps)
        for each, solution in zip(wanted, profiles.solve(averages, wanted), strict=True)
    ]
    return found


def _experiment(arguments):
    """The experiment that the command line names, and its workdir if it has one."""
    if bool(arguments.workdir) == bool(arguments.config):
        raise ValueError("Give --workdir, of a run, or --config, of one to be planned.")
    if arguments.config:
        config = configs.load(arguments.config, arguments.overrides)
        return configs.build(config), None
    if arguments.overrides:
        raise ValueError(f"Unknown argument {arguments.overrides[0]!r}; see --help.")
    workdir = Path(arguments.workdir)
    return configs.build(configs.of_workdir(workdir)), workdir


def _check_lengths(arguments) -> None:
    """Refuses lengths of no average before anything is read.

    Raises:
      ValueError: there are none, or one cannot be.
    """
    if not arguments.lengths and not arguments.half_life:
        raise ValueError("There is nothing to make; give --length, such as 0.1.")
    for length in arguments.lengths:
        profiles.check_width(length, "--length")


def _lengths(arguments, step: int) -> list[float]:
    """Lengths that the command line asks for, of averages at this step.

    Raises:
      ValueError: a half-life is too long for the step.
    """
    found = list(arguments.lengths)
    for half_life in arguments.half_life:
        found.append(profiles.width_of(half_life, step))
        profiles.check_width(found[-1], f"--half_life={half_life:g} at step {step}")
    return found


def _present(reader: SnapshotReader) -> list[int]:
    """Steps of the snapshots that are there; those that are missing are named."""
    there = reader.there()
    if missing := [step for step in reader.steps if step not in there]:
        logger.warning("Snapshots are missing and left out, of steps %s.", missing)
    return there


def _until(steps: Sequence[int], step: int | None) -> list[int]:
    """The steps up to the one that an average is wanted at.

    Raises:
      ValueError: that step is none of them, or there is none at all.
    """
    if not steps:
        raise ValueError("No snapshot is left that could be read.")
    if step is not None and step not in steps:
        near = sorted(sorted(steps, key=lambda s: abs(s - step))[:4])
        raise ValueError(f"--step={step} has no snapshot; the nearest are of {near}.")
    return [each for each in steps if step is None or each <= step]


def _solved(averages, wanted: Average, most_error: float) -> profiles.Solution:
    """The solution for an average, if it is near enough.

    Raises:
      ValueError: it is not; tells which lengths would be.
    """
    (solution,) = profiles.solve(averages, [wanted])
    if solution.error <= most_error:
        return solution
    tried = [Average(length, wanted.step) for length in TRIED]
    errors = [each.error for each in profiles.solve(averages, tried)]
    given = [
        length
        for length, error in zip(TRIED, errors, strict=True)
        if error <= most_error
    ]
    widths = {average.width for average in averages}
    low, high = min([*given, *widths]), max([*given, *widths])
    raise ValueError(
        f"A length of {wanted.width:.4g} is more than the snapshots up to step "
        f"{wanted.step} can give: its profile would be off by {solution.error:.1%} "
        f"(--most_error={most_error:g}). Use {low:.3f} to {high:.3f}."
    )


def _about(wanted: Average, solution: profiles.Solution, steps) -> dict[str, Any]:
    """What is told of an average, and kept with it."""
    return {
        "length": wanted.width,
        "step": wanted.step,
        "half_life": profiles.half_life_of(wanted.width, wanted.step),
        "error": solution.error,
        "amplification": solution.amplification,
        "snapshots": len(steps),
    }


def _print(found: dict[str, Any], as_json: bool) -> None:
    """A plan as JSON, or as text for people."""
    if as_json:
        print(json.dumps(found))
        return
    print(f"snapshots   {describe_budget(found['disk'])}")
    if "bytes_there" in found:
        print(f"there now   {found['bytes_there'] / 1e9:.4g} GB")
    print(f"What they give at step {found['step']:,}:")
    print("length   half-life in steps   error of the profile   rounding comes x")
    for row in found["lengths"]:
        print(
            f"{row['length']:<6.4g}   {row['half_life']:>18,.0f}   "
            f"{row['error']:>20.3%}   {row['amplification']:>16.2f}"
        )
