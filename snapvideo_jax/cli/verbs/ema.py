"""The verb `snapvideo ema`: averages of any length, made after a run has been trained.

Two averages are tracked while training and kept every so many steps. The average of
another length is a weighted sum of all of them, and `profiles` tells the weights and
how far its profile is from the one that was asked for.
"""

import json
from pathlib import Path
from typing import Any

from snapvideo_jax import config as configs
from snapvideo_jax.io.messages import human_bytes
from snapvideo_jax.training.checkpoints.ema_snapshots import (
    EmaSnapshotReader,
    describe_budget,
)
from snapvideo_jax.training.checkpoints.posthoc_ema import (
    _check_lengths,
    make,
    plan,
)


def run(arguments) -> None:
    """`snapvideo ema`."""
    experiment, workdir = _experiment(arguments)
    if arguments.plan:
        _print(plan(experiment, workdir, arguments), arguments.json)
        return
    if workdir is None:
        raise ValueError("--workdir is missing; --config can only be planned.")
    _check_lengths(arguments)
    with EmaSnapshotReader(experiment, workdir) as reader:
        made = make(reader, workdir, arguments)
    if arguments.json:
        print(json.dumps(made))
        return
    for each in made:
        print(
            f"{each['folder']}  error of the profile {each['error']:.2%}, as wide "
            f"as a half-life of {each['half_life']:,.0f} steps"
        )


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


def _print(found: dict[str, Any], as_json: bool) -> None:
    """A plan as JSON, or as text for people."""
    if as_json:
        print(json.dumps(found))
        return
    print(f"snapshots   {describe_budget(found['disk'])}")
    if "bytes_there" in found:
        print(f"there now   {human_bytes(found['bytes_there'], 4)}")
    print(f"What they give at step {found['step']:,}:")
    print("length   half-life in steps   error of the profile   rounding comes x")
    for row in found["lengths"]:
        print(
            f"{row['length']:<6.4g}   {row['half_life']:>18,.0f}   "
            f"{row['error']:>20.3%}   {row['amplification']:>16.2f}"
        )
