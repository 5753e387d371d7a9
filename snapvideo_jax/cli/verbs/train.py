"""`snapvideo train`."""

import argparse
import json
import sys

from snapvideo_jax.cli.options import options
from snapvideo_jax.io.errors import Preempted, RunStopped
from snapvideo_jax.parallel import processes
from snapvideo_jax.train import TrainOptions, launch
from snapvideo_jax.training import dry_run


def run(arguments: argparse.Namespace) -> None:
    chosen = options(TrainOptions, arguments)
    if arguments.dry_run:
        report = dry_run.dry_run(chosen.load())
        print(json.dumps(report) if arguments.json else dry_run.describe(report))
        return
    try:
        launch(chosen)
    except Preempted as error:
        processes.exit_process(error)  # at once, whatever the loader is waiting for
    except RunStopped as error:
        print(f"snapvideo: stopped: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error
