"""`snapvideo evaluate`."""

from pathlib import Path

from snapvideo_jax.cli.options import options
from snapvideo_jax.evaluation.evaluate import check, evaluate
from snapvideo_jax.parallel import processes
from snapvideo_jax.parallel.process_settings import ProcessOptions


def run(arguments) -> None:
    """`snapvideo evaluate`."""
    check(arguments)
    if arguments.selfcheck:
        from snapvideo_jax.evaluation.weights.selfcheck import selfcheck

        if not selfcheck(Path(arguments.weights), Path(arguments.anchors)):
            raise SystemExit(1)
        return
    with processes.processes(options(ProcessOptions, arguments), arguments.out):
        evaluate(arguments)
