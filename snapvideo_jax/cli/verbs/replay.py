"""`snapvideo replay`. Exits with 1 where the step differs from the ledger."""

import argparse
import json

from snapvideo_jax.cli.options import options
from snapvideo_jax.parallel import processes
from snapvideo_jax.training.replay import ReplayOptions, replay
from snapvideo_jax.training.replay.report import describe


def run(arguments: argparse.Namespace) -> None:
    chosen = options(ReplayOptions, arguments)
    processes.enable_compilation_cache(chosen.workdir)
    report = replay(chosen)
    print(json.dumps(report) if arguments.json else describe(report, chosen.folder))
    if report["differences"] or "different" in report["agreement"].values():
        raise SystemExit(1)
