"""`snapvideo rehearse`. Exits with 1 where a fault was not survived."""

import argparse
import json
import signal
import sys

from snapvideo_jax.cli.options import options
from snapvideo_jax.training.rehearse import RehearseOptions, rehearse, report


def run(arguments: argparse.Namespace) -> None:
    # The processes of runs are ended by an ordinary exit, but not by the signal itself.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    outcomes = []
    for outcome in rehearse(options(RehearseOptions, arguments)):
        outcomes.append(outcome)
        if not arguments.json:
            print(report.describe(outcome), flush=True)
    if arguments.json:
        print(json.dumps(report.as_json(outcomes)))
    else:
        print(f"\n{report.table(outcomes)}")
    if not all(each.survived for each in outcomes):
        raise SystemExit(1)
