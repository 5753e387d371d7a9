"""`snapvideo replay`."""

import json
from pathlib import Path

from snapvideo_jax.io.options import check_least
from snapvideo_jax.parallel import processes
from snapvideo_jax.training.replay.rebuild import rebuild
from snapvideo_jax.training.replay.report import describe, replay


def run(arguments) -> None:
    """`snapvideo replay`. Exits with 1 where the step is not the one of the ledger."""
    check_least(arguments, {"step": 1})
    workdir = Path(arguments.workdir)
    processes.enable_compilation_cache(workdir)
    out = Path(arguments.out or workdir / "replay" / f"{arguments.step:07d}")
    rebuilt = rebuild(
        workdir,
        arguments.step,
        out,
        arguments.overrides,
        arguments.from_checkpoint,
        arguments.samples or (),
    )
    report = replay(rebuilt, out, arguments.samples)
    print(json.dumps(report) if arguments.json else describe(report, out))
    if report["differences"] or "different" in report["agreement"].values():
        raise SystemExit(1)
