"""The verb `snapvideo protocol`: the paper's evaluations, made and scored."""

import argparse
import json

from snapvideo_jax.cli.options import options
from snapvideo_jax.evaluation.protocols.generate import generate
from snapvideo_jax.evaluation.protocols.score import score
from snapvideo_jax.evaluation.protocols.settings import PROTOCOLS
from snapvideo_jax.parallel import processes
from snapvideo_jax.parallel.process_settings import ProcessOptions


def run(arguments: argparse.Namespace) -> None:
    """`snapvideo protocol list`, `generate` and `score`."""
    if arguments.action == "list":
        _list(arguments)
        return
    action = generate if arguments.action == "generate" else score
    with processes.processes(options(ProcessOptions, arguments), arguments.out):
        action(arguments)


def _list(arguments: argparse.Namespace) -> None:
    if arguments.json:
        found = {name: each.described() for name, each in PROTOCOLS.items()}
        print(json.dumps(found, indent=2))
        return
    for name, each in PROTOCOLS.items():
        print(
            f"{name:<12}{each.paper:<14}{len(each.points())} x {each.num_samples:,} "
            f"clips; {', '.join(each.metrics)}; {', '.join(each.views)}"
        )
