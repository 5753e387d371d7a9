"""The command line: ``snapvideo VERB ...``, the same as ``python -m snapvideo_jax``."""

import argparse
import functools
import importlib
import logging
import sys

import absl.logging
from absl import flags

from snapvideo_jax.evaluate import arguments as evaluate_arguments

CONFIG_HELP = """\
A config is a Python file with get_config(arg); configs/ has one for every published
model. What follows a colon is its argument, and any field can be changed:

  --config configs/fit.py:size=500m --config.optimizer.steps=1000
"""


PLAN_HELP = """\
A plan that does not fit says by how much and what would fit. Every compilation is kept
in ~/.cache/snapvideo/plans, so the same question is answered at once, and a search that
was stopped goes on. A search leaves fields alone that --config. sets. Steps, solver and
guidance of the sampler are those of the config:

  --config configs/fit.py --topology v6e:2x2 --sampler --batch 16 \\
      --config.sampler.steps=64 --config.sheets.guidance=2

"""

TAKE_OVERRIDES = ("train", "plan", "bench", "encode_text", "prepare")
"""Verbs whose further arguments change fields of --config."""


PREPARE_HELP = """\
Files are probed, filtered, cut and encoded anew, as the config says, into shards that
`snapvideo train` reads. Options of Beam, such as those of its runner, follow --:

  --config configs/prepare.py --config.source=FOLDER --out OUT \\
      -- --direct_num_workers=8 --direct_running_mode=multi_processing
"""


def main() -> None:
    """Parses the command line and calls the verb."""
    _log_to_stderr()
    arguments, rest = _parser().parse_known_args()
    arguments.overrides = rest
    if rest and arguments.verb not in TAKE_OVERRIDES:
        print(
            f"snapvideo: error: unknown argument {rest[0]!r}; see --help.",
            file=sys.stderr,
        )
        raise SystemExit(2)
    flags.FLAGS.mark_as_parsed()  # Grain's worker processes ask absl for their flags.
    importlib.import_module(f"snapvideo_jax.{arguments.verb}").run(arguments)


def _log_to_stderr() -> None:
    """Shows this package's log lines, and of the libraries' only errors."""
    absl.logging.set_verbosity(absl.logging.ERROR)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("snapvideo_jax")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="snapvideo", description="Snap Video (arXiv 2402.14797) in JAX."
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    _add_train(verbs)
    _add_sample(verbs)
    _add_judge(verbs)
    _add_plan(verbs)
    _add_bench(verbs)
    _add_prepare(verbs)
    _add_encode_text(verbs)
    evaluate_arguments.add_verbs(functools.partial(_add, verbs), _add_processes)
    return parser


def _add(verbs, name: str, help: str, epilog: str = "") -> argparse.ArgumentParser:
    return verbs.add_parser(
        name,
        help=help,
        description=help,
        epilog=epilog,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _add_train(verbs) -> None:
    verb = _add(verbs, "train", "Train a model; the same command resumes.", CONFIG_HELP)
    verb.add_argument("--config", required=True, metavar="FILE[:ARG]")
    verb.add_argument("--workdir", metavar="DIR", help="where the run is kept")
    verb.add_argument(
        "--dry-run",
        action="store_true",
        help="print the resolved config, parameters, tokens and the memory of the "
        "state per device, and stop",
    )
    verb.add_argument("--json", action="store_true", help="print --dry-run as JSON")
    _add_processes(verb)


def _add_sample(verbs) -> None:
    verb = _add(
        verbs,
        "sample",
        "Sample clips from a trained model.",
        "Writes NUMBER.mp4 and NUMBER.json for every clip, and sheet.gif of them all.",
    )
    verb.add_argument("--workdir", required=True, metavar="DIR", help="of the run")
    verb.add_argument("--prompt", action="append", help="a caption; may be repeated")
    verb.add_argument("--prompts", metavar="FILE", help="captions, one a line")
    verb.add_argument("--out", required=True, metavar="DIR")
    verb.add_argument("--num_samples", type=int, default=1, help="of each prompt")
    verb.add_argument(
        "--format",
        dest="formats",
        type=lambda text: tuple(text.split(",")),
        default=("mp4",),
        metavar="F,F",
        help="of mp4, gif, png (default: mp4)",
    )
    _add_sampler(verb)


def _add_judge(verbs) -> None:
    verb = _add(
        verbs,
        "judge",
        "Sample held-out prompts of the shapes data set, and count those obeyed.",
        "Prints the share of clips whose colour, shape and direction are all as\n"
        "asked, and writes judged.json and sheet.gif.",
    )
    verb.add_argument("--workdir", required=True, metavar="DIR", help="of the run")
    verb.add_argument("--out", required=True, metavar="DIR")
    verb.add_argument("--count", type=int, default=64, help="prompts (default: 64)")
    _add_sampler(verb)


def _add_plan(verbs) -> None:
    verb = _add(
        verbs,
        "plan",
        "Compile a config for a TPU topology, without the TPU: memory, speed, cost.",
        PLAN_HELP + CONFIG_HELP,
    )
    verb.add_argument("--config", metavar="FILE[:ARG]", help="what is planned")
    verb.add_argument("--topology", metavar="CHIP:SHAPE", help="as v5p:4x4x8")
    verb.add_argument("--slices", type=int, default=1, help="of it (default: 1)")
    verb.add_argument(
        "--sampler", action="store_true", help="plan the sampler, not the train step"
    )
    verb.add_argument(
        "--batch", type=int, help="clips that it makes at once (default: 64)"
    )
    verb.add_argument(
        "--search",
        action="store_true",
        help="find the fastest remat, microbatches and mesh that fit",
    )
    verb.add_argument(
        "--search_limit",
        type=int,
        metavar="N",
        help="compilations of the search, minutes each (default: 12)",
    )
    verb.add_argument(
        "--layout",
        action="store_true",
        help="print how parameters are divided over the topology; compiles nothing",
    )
    verb.add_argument(
        "--flags",
        metavar="FILE",
        help="write the compiler's flags that a run should use, to be sourced",
    )
    verb.add_argument(
        "--golden",
        metavar="NAME",
        help="write docs/plans/NAME.json and docs/plans.md of a checkout anew; names "
        "with commas between, small, or all",
    )
    verb.add_argument("--json", action="store_true", help="print JSON")


def _add_bench(verbs) -> None:
    verb = _add(
        verbs,
        "bench",
        "Measure a config on the devices that are here: time, rates, memory.",
        CONFIG_HELP,
    )
    verb.add_argument(
        "what",
        nargs="?",
        choices=("step", "data", "models"),
        default="step",
        help="the train step (default), the reading of data on the host's cores, or "
        "FIT, the U-Nets and DiTs beside each other",
    )
    verb.add_argument(
        "--step_seconds",
        type=float,
        metavar="S",
        help="of data: a step of the pod, where no --plan tells it",
    )
    verb.add_argument("--config", metavar="FILE[:ARG]", help="of step and data")
    verb.add_argument("--only", metavar="NAME,NAME", help="of models: some of them")
    verb.add_argument(
        "--divide",
        type=int,
        metavar="N",
        help="of models: make widths smaller (default: 8 on a CPU, else 1)",
    )
    verb.add_argument("--batch", type=int, help="of models: clips at once")
    verb.add_argument(
        "--steps", type=int, default=20, help="runs that are timed (default: 20)"
    )
    verb.add_argument(
        "--forward",
        action="store_true",
        help="the network's forward pass in place of the train step",
    )
    verb.add_argument(
        "--sampler",
        action="store_true",
        help="the sampler in place of the train step",
    )
    verb.add_argument(
        "--profile",
        metavar="DIR",
        help="trace a few more runs there, and print where their time goes",
    )
    verb.add_argument(
        "--plan", metavar="CHIP:SHAPE", help="show the forecast for a TPU topology too"
    )
    verb.add_argument("--json", action="store_true", help="print JSON")
    _add_processes(verb)


def _add_prepare(verbs) -> None:
    verb = _add(
        verbs,
        "prepare",
        "Prepare a data set with Apache Beam; the same command goes on.",
        PREPARE_HELP,
    )
    verb.add_argument("--config", required=True, metavar="FILE[:ARG]")
    verb.add_argument("--out", required=True, metavar="DIR", help="where it is kept")
    verb.add_argument("beam", nargs="*", metavar="-- OPTION", help="options of Beam")


def _add_encode_text(verbs) -> None:
    verb = _add(
        verbs,
        "encode_text",
        "Encode captions with T5 once, for training with text.name=cached.",
        "The same command again adds what is missing. --plan N tells what N captions\n"
        "would cost, online and cached, and encodes nothing.",
    )
    verb.add_argument(
        "--encoder",
        required=True,
        metavar="DIR",
        help="config.json, spiece.model and weights; for --plan also a name as t5-11b",
    )
    verb.add_argument(
        "--captions", metavar="FILE", help="one a line; .jsonl: objects with a caption"
    )
    verb.add_argument(
        "--config", metavar="FILE[:ARG]", help="the captions of its data, all of them"
    )
    verb.add_argument("--out", metavar="DIR", help="of the embeddings")
    verb.add_argument("--tokens", type=int, help="at most (default: config's, or 128)")
    verb.add_argument("--batch", type=int, default=64, help="at once (default: 64)")
    verb.add_argument(
        "--shard_captions", type=int, default=16384, help="in a file (default: 16384)"
    )
    verb.add_argument(
        "--dtype",
        choices=("bfloat16", "float32"),
        default="bfloat16",
        help="computed in (default: bfloat16)",
    )
    verb.add_argument("--plan", type=int, metavar="N", help="captions of a plan")
    verb.add_argument(
        "--mean_tokens", type=float, default=20.0, help="of a plan (default: 20)"
    )
    verb.add_argument(
        "--step_seconds", type=float, default=1.0, help="of a plan (default: 1)"
    )
    verb.add_argument("--json", action="store_true", help="print the plan as JSON")
    _add_processes(verb)


def _add_sampler(verb: argparse.ArgumentParser) -> None:
    """Options of every verb that samples; None is the config's own value."""
    verb.add_argument("--steps", type=int, help="noise levels (default: the config's)")
    verb.add_argument(
        "--solver",
        help="heun, euler, dpmpp_2m or adams_bashforth (default: the config's)",
    )
    verb.add_argument("--churn", type=float, help="EDM's S_churn (default: config's)")
    _add_guidance(verb)
    verb.add_argument("--fps", type=float, help="frame-rate; 0 makes stills")
    verb.add_argument("--seed", type=int, default=0)
    verb.add_argument(
        "--batch", type=int, default=64, help="clips at once (default 64)"
    )
    verb.add_argument(
        "--raw",
        dest="ema",
        action="store_false",
        help="use the raw weights in place of their moving average",
    )
    _add_processes(verb)


def _add_guidance(verb: argparse.ArgumentParser) -> None:
    """Options of guidance; None is the config's own value."""
    group = verb.add_argument_group("guidance")
    group.add_argument(
        "--guidance",
        type=float,
        metavar="G",
        help="weight g of D_c + g (D_c - D_u); 0 is the plain conditional model, other "
        "papers' weight is 1 + g (default: the config's)",
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
        metavar="LOW,HIGH",
        help="guide only at noise levels between these",
    )
    group.add_argument(
        "--threshold",
        type=float,
        metavar="Q",
        help="dynamic thresholding at the quantile Q, as 0.995; 0 is none",
    )
    group.add_argument(
        "--negative_prompt", metavar="TEXT", help="what is guided away from"
    )
    group.add_argument(
        "--autoguide",
        metavar="WORKDIR[@STEP]",
        help="guide by the difference to a smaller or earlier model",
    )
    group.add_argument(
        "--autoguidance",
        type=float,
        metavar="W",
        help="weight w of D_1 + (w - 1) (D_1 - D_0), where D_0 is that model; 1 is "
        "none, the g of --guidance would be w - 1 (default: the config's)",
    )


def _add_processes(verb: argparse.ArgumentParser) -> None:
    """Options of every verb that runs in several processes; all take a text."""
    group = verb.add_argument_group(
        "several processes",
        "Cloud TPU pods, GKE, SLURM and Open MPI need none of these. SNAPVIDEO_ and "
        "the name in capitals is a variable to the same end.",
    )
    group.add_argument("--coordinator", metavar="HOST:PORT", help="of process 0")
    group.add_argument("--process_count", metavar="N", help="of all processes")
    group.add_argument("--process_index", metavar="I", help="of this one, from 0")
    group.add_argument(
        "--connect_seconds",
        metavar="S",
        help="how long processes wait for each other at the start (default: 300)",
    )


if __name__ == "__main__":
    main()
