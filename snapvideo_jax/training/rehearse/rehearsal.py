"""The rehearsal: an undisturbed run of a config, then one run for each fault."""

import dataclasses
import os
import random
from collections.abc import Iterator
from pathlib import Path

import jax

from snapvideo_jax import config as configs
from snapvideo_jax.io.files import write_json
from snapvideo_jax.training.rehearse import report
from snapvideo_jax.training.rehearse.faults import FAULTS, NOT_BIT_EXACT, FaultTrial
from snapvideo_jax.training.rehearse.report import Outcome
from snapvideo_jax.training.rehearse.runner import (
    RehearsalFailed,
    RunProcesses,
    RunSetup,
)

CHECKPOINTS = 6
"""Checkpoints of each run."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RehearseOptions:
    """Which runs meet which faults.

    Attributes:
      config: "FILE[:ARG]" or "NAME[:ARG]".
      overrides: of its fields, each as "--config.a.b=value".
      out: new folder for the workdirs and logs of all runs.
      steps: of each run; 6 or more.
      processes: of each run.
      seed: of the steps at which faults strike.
      faults: names in `faults.FAULTS`; None for all that the processes allow.
      kills: of the faults ``sigkill`` and ``save_kill``.

    Raises:
      ValueError: a fault is unknown or needs more processes.
    """

    config: str
    out: Path
    overrides: tuple[str, ...] = ()
    steps: int = 24
    processes: int = 2
    seed: int = 0
    faults: tuple[str, ...] | None = None
    kills: int = 3

    def __post_init__(self):
        for name in self.names:
            if name not in FAULTS:
                raise ValueError(
                    f"--faults={name} is unknown; use some of {list(FAULTS)}."
                )
        if "lost_process" in self.names and self.processes == 1:
            raise ValueError("--faults=lost_process needs --processes of at least 2.")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the faults."""
        if self.faults:
            return self.faults
        alone = self.processes == 1
        return tuple(name for name in FAULTS if not (alone and name == "lost_process"))

    @property
    def checkpoint_every(self) -> int:
        """Steps between the checkpoints of a run."""
        return self.steps // CHECKPOINTS


def rehearse(options: RehearseOptions) -> Iterator[Outcome]:
    """Runs the faults one after another, and writes ``rehearsal.json`` at the end.

    Yields:
      The outcome of each fault, as soon as it is known.

    Raises:
      ValueError: the config cannot be used, the folder is not empty, or the undisturbed
        run fails.
    """
    setup = _setup(options)
    # The processes of the runs use devices; the comparison of their states needs none.
    jax.config.update("jax_platforms", "cpu")
    undisturbed = options.out / "undisturbed"
    run = RunProcesses(setup, undisturbed, options.processes)
    try:
        run.finish()
    except RehearsalFailed as error:
        raise ValueError(f"The undisturbed run fails: {error}") from error
    finally:
        run.kill()
    outcomes = []
    for name in options.names:
        trial = FaultTrial(
            setup=setup,
            workdir=options.out / name,
            steps=options.steps,
            every=options.checkpoint_every,
            count=options.processes,
            kills=options.kills,
            rng=random.Random(f"{options.seed} {name}"),
        )
        outcomes.append(_try(name, trial, undisturbed))
        yield outcomes[-1]
    write_json(options.out / "rehearsal.json", report.as_json(outcomes))


def _try(name: str, trial: FaultTrial, undisturbed: Path) -> Outcome:
    """The outcome of one fault."""
    exact, survived = "", False
    try:
        FAULTS[name](trial)
        survived, exact = report.compare(
            trial.workdir, undisturbed, same_bits=name not in NOT_BIT_EXACT
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


def _setup(options: RehearseOptions) -> RunSetup:
    """What the runs share; checks config and folder before any of them starts."""
    out, every = options.out, options.checkpoint_every
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"--out={out} is not empty; use a new folder.")
    fields = {
        "optimizer.steps": options.steps,
        "run.checkpoint_every_steps": every,
        "run.log_every_steps": every,
        "run.keep": 3,
        "sheets.every_steps": 0,
    }
    overrides = [f"--config.{name}={value}" for name, value in fields.items()]
    overrides += options.overrides
    configs.build(configs.load(options.config, overrides))
    return RunSetup(
        train=("--config", options.config, *overrides),
        devices=2 * options.processes,  # as many as processes with other_count
        # Compiled once for all starts, in the user's compilation cache if there is one.
        programs=Path(os.environ.get("JAX_COMPILATION_CACHE_DIR") or out / "programs"),
        flags=os.environ.get("XLA_FLAGS", ""),
    )
