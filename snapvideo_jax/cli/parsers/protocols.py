"""Options of the verb `protocol`."""

from snapvideo_jax.cli.parsers.common import add, add_processes, add_sampler

GENERATE_HELP = """\
NAME is one of those of `snapvideo protocol list`. Steps, solver, guidance, frame-rate
and number of clips are the protocol's where they are not given. The same command goes
on where it was stopped; --part I/N makes every N-th clip from the I-th on, so that
machines share the work.
"""

SCORE_HELP = """\
The protocol is the one that the clips were made by. Writes result.json, table.csv and,
of a sweep, curve.png. The same command goes on where it was stopped.
"""


def add_verbs(verbs) -> None:
    """Adds the verb to a command line."""
    protocol = add(
        verbs,
        "protocol",
        "The paper's evaluations: their clips made (generate) and scored (score).",
    )
    actions = protocol.add_subparsers(dest="action", required=True, metavar="ACTION")
    listed = add(actions, "list", "Print the protocols; --json with all their fields.")
    listed.add_argument("--json", action="store_true", help="print JSON")
    _add_generate(actions)
    _add_score(actions)


def _add_generate(actions) -> None:
    action = add(actions, "generate", "Make the clips of a protocol.", GENERATE_HELP)
    action.add_argument("name", metavar="NAME", help="of the protocol")
    action.add_argument("--workdir", required=True, metavar="DIR", help="of the run")
    action.add_argument("--out", required=True, metavar="DIR", help="of the clips")
    action.add_argument(
        "--captions",
        metavar="FILE",
        help="of the real clips: one a line, .jsonl, or MSR-VTT's "
        "test_videodatainfo.json",
    )
    action.add_argument(
        "--classes",
        metavar="PATH",
        help="of UCF-101: its folder of videos, or a list such as testlist01.txt",
    )
    action.add_argument(
        "--num_samples",
        type=int,
        metavar="N",
        help="of a point (default: as the paper)",
    )
    action.add_argument(
        "--only", metavar="POINT,POINT", help="of a sweep: some of its points"
    )
    action.add_argument(
        "--part", default="0/1", metavar="I/N", help="of the clips (default: 0/1, all)"
    )
    add_sampler(action)


def _add_score(actions) -> None:
    action = add(actions, "score", "Score the clips of a protocol.", SCORE_HELP)
    action.add_argument(
        "--samples", required=True, metavar="DIR", help="of `protocol generate`"
    )
    action.add_argument("--against", metavar="PATH", help="real clips or statistics")
    action.add_argument("--out", required=True, metavar="DIR", help="of the numbers")
    action.add_argument(
        "--clips",
        metavar="DIR",
        help="of the same clips in another size, in folders named as the points",
    )
    action.add_argument("--weights", metavar="DIR", help="of NETWORK.safetensors")
    action.add_argument(
        "--features", metavar="random:SEED", help="random networks, to try things out"
    )
    action.add_argument(
        "--metrics", metavar="M,M", help="some of the protocol's (default: all)"
    )
    action.add_argument("--only", metavar="POINT,POINT", help="some of the points")
    action.add_argument("--fvd", metavar="V", help="stylegan-v (default), tf, videogpt")
    action.add_argument("--fid", metavar="V", help="tf (default), pytorch-fid, clean")
    action.add_argument("--clip", metavar="V", help="openai (default), squash")
    action.add_argument(
        "--splits", type=int, default=10, help="of the Inception score (default: 10)"
    )
    action.add_argument(
        "--batch", type=int, default=8, help="clips at once (default: 8)"
    )
    action.add_argument(
        "--shards", type=int, default=8, help="parts that can be resumed (default: 8)"
    )
    action.add_argument("--threads", type=int, help="that read clips (default: cores)")
    add_processes(action)
