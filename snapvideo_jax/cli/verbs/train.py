"""`snapvideo train`."""

import sys
from pathlib import Path

from ml_collections import ConfigDict

from snapvideo_jax import config as configs
from snapvideo_jax.cli.options import options
from snapvideo_jax.io.errors import Preempted, RunStopped, SaveFailed, is_disk_full
from snapvideo_jax.parallel import processes
from snapvideo_jax.parallel.process_settings import ProcessOptions
from snapvideo_jax.train import train
from snapvideo_jax.training.dry_run import describe, print_description
from snapvideo_jax.training.goodput import Goodput, process_seconds
from snapvideo_jax.training.preemption import Preemption


def run(arguments) -> None:
    """`snapvideo train`."""
    if arguments.dry_run:
        print_description(describe(_config(arguments)), arguments.json)
        return
    folder = arguments.workdir
    try:
        _train(arguments, folder)
    except Preempted as error:
        processes.exit_process(error)  # at once, whatever the loader is waiting for
    except RunStopped as error:
        print(f"snapvideo: stopped: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error


def _config(arguments) -> ConfigDict:
    """The config that the command line names, or else that of the workdir.

    Raises:
      ValueError: it names none, or as `configs.load` and `configs.of_workdir`.
    """
    if arguments.config:
        return configs.load(arguments.config, arguments.overrides)
    if not arguments.workdir:
        raise ValueError(
            "--config is missing; give one, or the --workdir of a run that was begun."
        )
    return configs.of_workdir(Path(arguments.workdir), arguments.overrides)


def _train(arguments, folder: str | None) -> None:
    goodput = Goodput(process_seconds())
    with (
        Preemption().listening() as preemption,
        processes.processes(
            options(ProcessOptions, arguments), folder, always_log=True
        ),
        preemption.synchronized(),
    ):
        config = _config(arguments)
        if not folder:
            raise ValueError("--workdir is missing; the run is kept there.")
        processes.enable_compilation_cache(Path(folder))
        try:
            train(config, Path(folder), preemption, goodput)
        except OSError as error:
            if not is_disk_full(error):
                raise
            raise SaveFailed(
                f"The disk takes no more ({error}); the newest checkpoint stays. Make "
                "room there, and start the same command again."
            ) from error
