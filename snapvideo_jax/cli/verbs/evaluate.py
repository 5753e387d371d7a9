"""`snapvideo evaluate`: scores clips."""

import argparse

from snapvideo_jax.cli.options import options
from snapvideo_jax.evaluation.evaluate import RESULT, evaluate
from snapvideo_jax.evaluation.results import describe
from snapvideo_jax.evaluation.settings import EvaluateOptions
from snapvideo_jax.parallel import processes
from snapvideo_jax.parallel.process_settings import ProcessOptions


def run(arguments: argparse.Namespace) -> None:
    asked = options(EvaluateOptions, arguments)
    with processes.processes(options(ProcessOptions, arguments), arguments.out):
        result = evaluate(asked)
    if result is not None:
        print(describe(result, asked.metrics))
        print(asked.out / RESULT)
