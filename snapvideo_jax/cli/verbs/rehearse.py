"""`snapvideo rehearse`."""

import json
import signal
import sys
from pathlib import Path

from snapvideo_jax.io.files import write_json
from snapvideo_jax.io.options import check_least
from snapvideo_jax.training.rehearse import report
from snapvideo_jax.training.rehearse.rehearsal import _faults, _setup, rehearse


def run(arguments) -> None:
    """`snapvideo rehearse`. Exits with 1 where a fault was not survived."""
    # An ordinary exit ends the processes of runs, which the signal alone would not.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    check_least(arguments, {"steps": 6, "processes": 1, "seed": 0, "kills": 1})
    names = _faults(arguments)
    setup = _setup(arguments)
    outcomes = rehearse(setup, arguments, names)
    write_json(Path(arguments.out) / "rehearsal.json", report.as_json(outcomes))
    if arguments.json:
        print(json.dumps(report.as_json(outcomes)))
    else:
        print(f"\n{report.table(outcomes)}")
    if not all(each.survived for each in outcomes):
        raise SystemExit(1)
