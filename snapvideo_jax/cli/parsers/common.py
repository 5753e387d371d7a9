"""What verbs of the command line have in common."""

import argparse
import sys

from snapvideo_jax.cli.parsers.types import integer, number, several

CONFIG_HELP = """\
A config is a Python file with get_config(arg), or the name of one that comes with this,
such as demo, clips or fit. What follows a colon is its argument, and any field can be
changed:

  --config fit:size=500m --config.optimizer.steps=1000
"""


class Parser(argparse.ArgumentParser):
    """An argparse parser whose errors are one line, as all errors of users are."""

    def error(self, message: str):
        print(f"snapvideo: error: {message}", file=sys.stderr)
        raise SystemExit(2)


def add(
    verbs, name: str, help: str, epilog: str = "", takes_overrides: bool = False
) -> argparse.ArgumentParser:
    """Adds a verb.

    Args:
      verbs: subparsers of the command line.
      name, help, epilog: of the verb.
      takes_overrides: further arguments (``--config.a.b=value``) change its config;
        they are in ``arguments.overrides``.
    """
    verb = verbs.add_parser(
        name,
        help=help,
        description=help,
        epilog=epilog,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb.set_defaults(takes_overrides=takes_overrides)
    return verb


def add_sampler(verb: argparse.ArgumentParser) -> None:
    """Options of `sampling.SamplerOptions`, and of several processes."""
    verb.add_argument(
        "--steps",
        type=integer(least=1),
        metavar="N",
        help="noise levels (default: the config's)",
    )
    verb.add_argument(
        "--solver",
        help="heun, euler, dpmpp_2m or adams_bashforth (default: the config's)",
    )
    verb.add_argument(
        "--churn",
        type=number(least=0),
        metavar="S",
        help="EDM's S_churn (default: the config's)",
    )
    _add_guidance(verb)
    verb.add_argument(
        "--fps",
        type=number(least=0),
        help="frame rate of the clips; 0 makes images (default: the config's)",
    )
    verb.add_argument(
        "--seed", type=integer(least=0), default=0, metavar="N", help="(default: 0)"
    )
    verb.add_argument(
        "--batch",
        type=integer(least=1),
        default=64,
        metavar="N",
        help="clips that are sampled at once (default: 64)",
    )
    verb.add_argument(
        "--raw",
        dest="ema",
        action="store_false",
        help="use the raw weights, not their EMA",
    )
    verb.add_argument(
        "--ema_profile",
        metavar="DIR",
        help="use a post-hoc EMA that `snapvideo ema` wrote to DIR",
    )
    add_processes(verb)


def add_overwrite(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--overwrite",
        action="store_true",
        help="sample clips again that --out already has",
    )


def _add_guidance(verb: argparse.ArgumentParser) -> None:
    """Options of guidance; None is the config's value."""
    group = verb.add_argument_group("guidance", "Default: the config's settings.")
    group.add_argument(
        "--guidance",
        type=number(),
        metavar="G",
        help="weight g of D_c + g (D_c - D_u); 0 is the plain conditional model, other "
        "papers' weight is 1 + g",
    )
    group.add_argument(
        "--oscillate",
        action="store_true",
        default=None,
        help="after some steps alternate between a low weight and G "
        "(config.guidance.after, .low)",
    )
    group.add_argument(
        "--guidance_interval",
        type=several(float),
        metavar="LOW,HIGH",
        help="guide only at noise levels between these",
    )
    group.add_argument(
        "--threshold",
        type=number(),
        metavar="Q",
        help="dynamic thresholding at the quantile Q, as 0.995; 0 disables it",
    )
    group.add_argument(
        "--negative_prompt",
        metavar="TEXT",
        help="prompt of the unconditional pass, which guidance moves away from",
    )
    group.add_argument(
        "--autoguide",
        metavar="WORKDIR[@STEP]",
        help="guide by the difference to a smaller or earlier model",
    )
    group.add_argument(
        "--autoguidance",
        type=number(),
        metavar="W",
        help="weight w of D_1 + (w - 1) (D_1 - D_0), where D_0 is that model; 1 "
        "disables it, the g of --guidance would be w - 1",
    )


def add_processes(verb: argparse.ArgumentParser) -> None:
    """Options of `parallel.process_settings.ProcessOptions`."""
    group = verb.add_argument_group(
        "several processes",
        "Cloud TPU pods, GKE, SLURM and Open MPI need none of these. A variable named "
        "SNAPVIDEO_ and the option in capitals has the same effect.",
    )
    group.add_argument(
        "--coordinator", metavar="HOST:PORT", help="address of process 0"
    )
    group.add_argument(
        "--process_count",
        type=integer(least=1),
        metavar="N",
        help="number of processes",
    )
    group.add_argument(
        "--process_index",
        type=integer(least=0),
        metavar="I",
        help="number of this process, from 0",
    )
    group.add_argument(
        "--connect_seconds",
        type=integer(least=1),
        metavar="S",
        help="longest wait for the other processes at the start (default: 300)",
    )
