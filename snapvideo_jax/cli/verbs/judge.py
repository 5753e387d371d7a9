"""`snapvideo judge`: measures how often a model of shapes obeys held-out prompts."""

import argparse

from snapvideo_jax.cli.options import options
from snapvideo_jax.evaluation.shapes import JudgeOptions, judge
from snapvideo_jax.parallel import processes
from snapvideo_jax.parallel.process_settings import ProcessOptions


def run(arguments: argparse.Namespace) -> None:
    asked = options(JudgeOptions, arguments)
    with processes.processes(options(ProcessOptions, arguments), arguments.out):
        found = judge(asked)
    if found is not None:
        shares = found["shares"]
        print(
            f"{shares['all']:.1%} of {len(found['clips'])} held-out prompts obeyed in "
            f"colour, shape and direction (colour {shares['colour']:.1%}, shape "
            f"{shares['shape']:.1%}, direction {shares['direction']:.1%}); chance is "
            "1.4%."
        )
