"""Options of the verbs `prepare` and `encode_text`."""

from snapvideo_jax.cli.parsers.common import add, add_processes

PREPARE_HELP = """\
Files are probed, filtered, cut and encoded anew, as the config says, into shards that
`snapvideo train` reads. Options of Beam, such as those of its runner, follow --:

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
        "Prepare a data set with Apache Beam; the same command goes on.",
        PREPARE_HELP,
        takes_overrides=True,
    )
    verb.add_argument("--config", required=True, metavar="FILE[:ARG]")
    verb.add_argument("--out", required=True, metavar="DIR", help="where it is kept")
    verb.add_argument("beam", nargs="*", metavar="-- OPTION", help="options of Beam")


def _add_encode_text(verbs) -> None:
    verb = add(
        verbs,
        "encode_text",
        "Encode captions with T5 once, for training with text.name=cached.",
        "The same command again adds what is missing. --plan N tells what N captions\n"
        "would cost, online and cached, and encodes nothing.",
        takes_overrides=True,
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
    add_processes(verb)
