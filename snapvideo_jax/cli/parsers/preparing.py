"""Options of the verbs `prepare` and `encode_text`."""

from snapvideo_jax.cli.parsers.common import add, add_processes
from snapvideo_jax.cli.parsers.types import integer, number, path

PREPARE_HELP = """\
Files are probed, filtered, cut and re-encoded, as the config specifies, into shards
that `snapvideo train` reads. Options of Beam, such as those of its runner, follow --:

  --config configs/prepare.py --config.source=FOLDER --out OUT \\
      -- --direct_num_workers=8 --direct_running_mode=multi_processing
"""


def add_verbs(verbs) -> None:
    """Adds the verbs to a command line."""
    _add_prepare(verbs)
    _add_encode_text(verbs)


def _add_prepare(verbs) -> None:
    verb = add(
        verbs,
        "prepare",
        "Prepare a data set with Apache Beam; the same command resumes.",
        PREPARE_HELP,
        takes_overrides=True,
    )
    verb.add_argument(
        "--config", required=True, metavar="FILE[:ARG]", help="a PrepareConfig"
    )
    verb.add_argument(
        "--out", required=True, metavar="DIR", help="the prepared data set"
    )
    verb.add_argument("beam", nargs="*", metavar="-- OPTION", help="options of Beam")


def _add_encode_text(verbs) -> None:
    verb = add(
        verbs,
        "encode_text",
        "Encode captions with T5 once, for training with text.name=cached.",
        "Run the same command to resume or to add captions. --plan N reports the cost\n"
        "of N captions, online and cached, and encodes nothing.",
        takes_overrides=True,
    )
    verb.add_argument(
        "--encoder",
        required=True,
        metavar="DIR",
        help="folder of config.json, spiece.model and weights; with --plan also a "
        "name, such as t5-11b",
    )
    verb.add_argument(
        "--captions",
        type=path,
        metavar="FILE",
        help="captions, one a line; .jsonl: objects with a caption",
    )
    verb.add_argument(
        "--config", metavar="FILE[:ARG]", help="encode all captions of its data"
    )
    verb.add_argument("--out", metavar="DIR", help="folder of the cache")
    verb.add_argument(
        "--tokens",
        type=integer(least=1),
        metavar="N",
        help="longest caption (default: the config's, or 128)",
    )
    verb.add_argument(
        "--batch",
        type=integer(least=1),
        default=64,
        metavar="N",
        help="captions encoded at once (default: 64)",
    )
    verb.add_argument(
        "--shard_captions",
        type=integer(least=1),
        default=16384,
        metavar="N",
        help="captions of a file (default: 16384)",
    )
    verb.add_argument(
        "--dtype",
        choices=("bfloat16", "float32"),
        default="bfloat16",
        help="of the computation (default: bfloat16)",
    )
    plan = verb.add_argument_group("a plan")
    plan.add_argument(
        "--plan", type=integer(least=1), metavar="N", help="number of captions"
    )
    plan.add_argument(
        "--mean_tokens",
        type=number(least=1),
        default=20.0,
        metavar="N",
        help="mean length of a caption (default: 20)",
    )
    plan.add_argument(
        "--step_seconds",
        type=number(above=0),
        default=1.0,
        metavar="S",
        help="time of a training step (default: 1)",
    )
    plan.add_argument("--json", action="store_true", help="print JSON")
    add_processes(verb)
