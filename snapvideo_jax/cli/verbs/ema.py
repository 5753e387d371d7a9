"""`snapvideo ema`."""

import argparse
import json
from typing import Any

from snapvideo_jax import config as configs
from snapvideo_jax.cli.options import options
from snapvideo_jax.io.messages import human_bytes
from snapvideo_jax.training.checkpoints.ema_snapshots import describe_budget
from snapvideo_jax.training.checkpoints.posthoc_ema import EmaOptions, plan, reconstruct


def run(arguments: argparse.Namespace) -> None:
    if bool(arguments.workdir) == bool(arguments.config):
        raise ValueError("Give --workdir, of a run, or --config, of one to be planned.")
    if arguments.workdir and arguments.overrides:
        raise ValueError(f"Unknown argument {arguments.overrides[0]!r}; see --help.")
    chosen, experiment = options(EmaOptions, arguments), None
    if arguments.config:
        config = configs.load(arguments.config, arguments.overrides)
        experiment = configs.build(config)
    if arguments.plan:
        found = plan(chosen, experiment)
        print(json.dumps(found) if arguments.json else _describe_plan(found))
        return
    written = reconstruct(chosen)
    if arguments.json:
        print(json.dumps(written))
        return
    for each in written:
        print(
            f"{each['folder']}  error of the profile {each['error']:.2%}, as wide "
            f"as a half-life of {each['half_life']:,.0f} steps"
        )


def _describe_plan(found: dict[str, Any]) -> str:
    lines = [f"snapshots   {describe_budget(found['disk'])}"]
    if "bytes_there" in found:
        lines.append(f"on disk     {human_bytes(found['bytes_there'], 4)}")
    lines += [
        f"Averages that they give at step {found['step']:,}:",
        "length   half-life in steps   error of the profile   rounding comes x",
    ]
    lines += [
        f"{row['length']:<6.4g}   {row['half_life']:>18,.0f}   "
        f"{row['error']:>20.3%}   {row['amplification']:>16.2f}"
        for row in found["lengths"]
    ]
    return "\n".join(lines)
