"""The verb `snapvideo rehearse`: a config, and all that can happen to its run."""

import os
import random
from pathlib import Path

import jax

from snapvideo_jax import config as configs
from snapvideo_jax.training.rehearse import report
from snapvideo_jax.training.rehearse.faults import FAULTS, NOT_BIT_EXACT, FaultTrial
from snapvideo_jax.training.rehearse.report import Outcome
from snapvideo_jax.training.rehearse.runner import (
    RehearsalFailed,
    RunProcesses,
    RunSetup,
)

CHECKPOINTS = 6
"""In a run that is rehearsed."""


def rehearse(setup: RunSetup, arguments, names: list[str]) -> list[Outcome]:
    """Plays faults one after the other, and tells what became of each run.

    Raises:
      ValueError: the config does not train even where nothing happens.
    """
    # Only the processes of runs use devices; what is compared needs none.
    jax.config.update("jax_platforms", "cpu")
    out = Path(arguments.out)
    whole = out / "undisturbed"
    run = RunProcesses(setup, whole, arguments.processes)
    try:
        run.finish()
    except RehearsalFailed as error:
        raise ValueError(
            f"The run does not come to its end though nothing happens: {error}"
        ) from error
    finally:
        run.kill()
    outcomes = []
    for name in names:
        trial = FaultTrial(
            setup=setup,
            workdir=out / name,
            steps=arguments.steps,
            every=_every(arguments.steps),
            count=arguments.processes,
            kills=arguments.kills,
            rng=random.Random(f"{arguments.seed} {name}"),
        )
        outcomes.append(_play(name, trial, whole))
        if not arguments.json:
            print(report.describe(outcomes[-1]), flush=True)
    return outcomes


def _play(name: str, trial: FaultTrial, whole: Path) -> Outcome:
    exact, survived = "", False
    try:
        FAULTS[name](trial)
        survived, exact = report.compare(
            trial.workdir, whole, same_bits=name not in NOT_BIT_EXACT
        )
    except RehearsalFailed as error:
        trial.notes.append(str(error))
    return Outcome(
        fault=name,
        survived=survived,
        exact=exact,
        steps_lost=trial.lost,
        seconds_to_resume=[round(each, 2) for each in trial.seconds],
        detail="; ".join(trial.notes),
    )


def _faults(arguments) -> list[str]:
    """The faults that are asked for.

    Raises:
      ValueError: one is unknown, or needs more processes.
    """
    asked = arguments.faults or tuple(
        name for name in FAULTS if arguments.processes > 1 or name != "lost_process"
    )
    for name in asked:
        if name not in FAULTS:
            raise ValueError(f"--faults={name} is unknown; use some of {list(FAULTS)}.")
    if "lost_process" in asked and arguments.processes == 1:
        raise ValueError("--faults=lost_process needs --processes of at least 2.")
    return list(asked)


def _setup(arguments) -> RunSetup:
    """What the runs share; the config is checked before any of them starts.

    Raises:
      ValueError: the config cannot be used, or the folder is not new.
    """
    out, every = Path(arguments.out), _every(arguments.steps)
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"--out={out} is not empty; use a new folder.")
    fields = {
        "optimizer.steps": arguments.steps,
        "run.checkpoint_every_steps": every,
        "run.log_every_steps": every,
        "run.keep": 3,
        "sheets.every_steps": 0,
    }
    overrides = [f"--config.{name}={value}" for name, value in fields.items()]
    overrides += arguments.overrides
    configs.build(configs.load(arguments.config, overrides))
    return RunSetup(
        train=("--config", arguments.config, *overrides),
        devices=2 * arguments.processes,  # as many as processes with other_count
        # Compiled once for all starts, and kept where the user keeps programs.
        programs=Path(os.environ.get("JAX_COMPILATION_CACHE_DIR") or out / "programs"),
        flags=os.environ.get("XLA_FLAGS", ""),
    )


def _every(steps: int) -> int:
    return max(1, steps // CHECKPOINTS)
