"""Options of the verb `protocol`."""

from snapvideo_jax.cli.parsers.common import add, add_processes, add_sampler
from snapvideo_jax.cli.parsers.evaluating import add_scorer
from snapvideo_jax.cli.parsers.types import integer, part, path, several

GENERATE_HELP = """\
NAME is one of `snapvideo protocol list`. Steps, solver, guidance, frame rate and number
of clips default to the protocol's. Run the same command to resume; --part I/N samples
every N-th clip from the I-th on, so that machines share the work.
"""

SCORE_HELP = """\
The protocol is the one that the clips were sampled by. Writes result.json, table.csv
and, for a sweep, curve.png. Run the same command to resume.
"""


def add_verbs(verbs) -> None:
    """Adds the verb to a command line."""
    protocol = add(
        verbs,
        "protocol",
        "The paper's evaluations: sample clips (generate) and score them (score).",
    )
    actions = protocol.add_subparsers(dest="action", required=True, metavar="ACTION")
    listed = add(actions, "list", "Print the protocols; --json with all their fields.")
    listed.add_argument("--json", action="store_true", help="print JSON")
    _add_generate(actions)
    _add_score(actions)


def _add_generate(actions) -> None:
    action = add(actions, "generate", "Sample the clips of a protocol.", GENERATE_HELP)
    option = action.add_argument
    option("name", metavar="NAME", help="of the protocol")
    option("--workdir", type=path, required=True, metavar="DIR", help="of the run")
    option("--out", type=path, required=True, metavar="DIR", help="folder of the clips")
    option(
        "--captions",
        type=path,
        metavar="FILE",
        help="of the real clips: one per line, .jsonl, or MSR-VTT's "
        "test_videodatainfo.json",
    )
    option(
        "--classes",
        type=path,
        metavar="PATH",
        help="of UCF-101: its folder of videos, or a list such as testlist01.txt",
    )
    option(
        "--num_samples",
        type=integer(least=1),
        metavar="N",
        help="clips of each point (default: as in the paper)",
    )
    _add_only(option)
    option(
        "--part",
        type=part,
        default=(0, 1),
        metavar="I/N",
        help="of the clips (default: 0/1, all)",
    )
    add_sampler(action)


def _add_score(actions) -> None:
    action = add(actions, "score", "Score the clips of a protocol.", SCORE_HELP)
    option = action.add_argument
    option("--samples", type=path, required=True, metavar="DIR", help="of `generate`")
    option("--against", type=path, metavar="PATH", help="real clips or statistics")
    option("--out", type=path, required=True, metavar="DIR", help="of the results")
    option(
        "--clips",
        type=path,
        metavar="DIR",
        help="the same clips in another size, in folders named as the points",
    )
    option(
        "--metrics",
        type=several(str),
        metavar="M,M",
        help="of the protocol's (default: all)",
    )
    _add_only(option)
    add_scorer(action)
    add_processes(action)


def _add_only(option) -> None:
    names = "points of a sweep (default: all)"
    option("--only", type=several(str), metavar="POINT,POINT", help=names)
