"""`snapvideo plan`."""

import argparse
import json

from snapvideo_jax import config as configs
from snapvideo_jax.cli.options import options
from snapvideo_jax.planning import compiler_flags, golden_plans
from snapvideo_jax.planning.plan import PlanOptions, describe, plan


def run(arguments: argparse.Namespace) -> None:
    """`snapvideo plan`."""
    if not (arguments.config or arguments.flags or arguments.golden):
        raise ValueError("--config is missing; give the config to plan.")
    if arguments.config and not arguments.topology:
        raise ValueError("--topology is missing; use CHIP:SHAPE, as v5p:4x4x8.")
    if arguments.golden and (arguments.config or arguments.topology):
        raise ValueError(
            "--golden plans have their own configs and topologies; leave out --config "
            "and --topology."
        )
    chosen = options(PlanOptions, arguments) if arguments.config else None
    if arguments.flags:
        compiler_flags.write(arguments.flags)
    if arguments.golden:
        golden_plans.regenerate(arguments.golden)
    if chosen is None:
        return
    config = configs.load(arguments.config, arguments.overrides)
    fixed = frozenset(
        each.partition("config.")[2].partition("=")[0] for each in arguments.overrides
    )
    result = plan(config, chosen, fixed)
    print(json.dumps(result) if arguments.json else describe(result))
