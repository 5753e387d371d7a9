"""`snapvideo protocol`: the paper's evaluations are listed, sampled and scored."""

import argparse
import json

from snapvideo_jax.cli.options import options
from snapvideo_jax.evaluation.protocols.generate import GenerateOptions, generate
from snapvideo_jax.evaluation.protocols.score import ScoreOptions, describe, score
from snapvideo_jax.evaluation.protocols.settings import PROTOCOLS
from snapvideo_jax.parallel import processes
from snapvideo_jax.parallel.process_settings import ProcessOptions


def run(arguments: argparse.Namespace) -> None:
    if arguments.action == "list":
        _print_protocols(arguments.json)
        return
    with processes.processes(options(ProcessOptions, arguments), arguments.out):
        if arguments.action == "generate":
            generate(options(GenerateOptions, arguments))
            return
        scores = score(options(ScoreOptions, arguments))
    if scores is not None:
        print(describe(scores))
        for path in scores.files:
            print(path)


def _print_protocols(as_json: bool) -> None:
    if as_json:
        found = {name: each.described() for name, each in PROTOCOLS.items()}
        print(json.dumps(found, indent=2))
        return
    for name, each in PROTOCOLS.items():
        print(
            f"{name:<12}{each.paper:<14}{len(each.points())} x {each.num_samples:,} "
            f"clips; {', '.join(each.metrics)}; {', '.join(each.views)}"
        )
