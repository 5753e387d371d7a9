"""Options of the verbs `study` and `gallery`."""

from snapvideo_jax.cli.parsers.common import add


def add_verbs(verbs) -> None:
    """Adds the verbs to a command line."""
    study = add(
        verbs,
        "study",
        "A user study: its page made (build), its votes counted (tally).",
    )
    actions = study.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_build(actions)
    _add_tally(actions)
    _add_gallery(verbs)


def _add_build(actions) -> None:
    build = add(
        actions,
        "build",
        "Make the page of a blinded study, and its key.",
        "The first method is compared with each of the others.",
    )
    build.add_argument(
        "--method",
        action="append",
        required=True,
        metavar="NAME=DIR",
        help="clips of `snapvideo sample`; twice or more",
    )
    build.add_argument("--prompts", required=True, metavar="FILE", help="one a line")
    build.add_argument("--out", required=True, metavar="DIR", help="of the page")
    build.add_argument(
        "--key", metavar="FILE", help="who made what (default: OUT.key.json)"
    )
    build.add_argument(
        "--seed", type=int, default=0, help="of order, sides and names (default: 0)"
    )
    build.add_argument(
        "--fps", type=float, default=0.0, help="of all clips (default: the lowest)"
    )
    build.add_argument(
        "--seconds", type=float, default=0.0, help="at most (default: the shortest)"
    )
    build.add_argument(
        "--size",
        type=_size,
        default=(0, 0),
        metavar="HEIGHTxWIDTH",
        help="of all clips (default: the smallest)",
    )


def _add_tally(actions) -> None:
    tally = add(actions, "tally", "Count the votes of a study, as the paper's Tab. 6.")
    tally.add_argument("votes", nargs="+", metavar="FILE", help="as raters send them")
    tally.add_argument("--key", required=True, metavar="FILE", help="of the study")
    tally.add_argument("--seed", type=int, default=0, help="of the resampling")
    tally.add_argument(
        "--resamples", type=int, default=2000, help="of intervals (default: 2000)"
    )
    tally.add_argument("--json", action="store_true", help="print JSON")


def _add_gallery(verbs) -> None:
    verb = add(
        verbs,
        "gallery",
        "Make a page of samples by prompt and run, to look through and compare.",
        "Metrics are read from JSON files of evaluate and judge, and from\n"
        "metrics.jsonl, where they lie beside the clips.",
    )
    verb.add_argument(
        "folders", nargs="+", metavar="DIR", help="of `snapvideo sample`, or of such"
    )
    verb.add_argument("--out", required=True, metavar="DIR", help="of the page")


def _size(text: str) -> tuple[int, int]:
    """Height and width, as in 288x512."""
    height, width = text.lower().split("x")
    return int(height), int(width)


_size.__name__ = "size"  # argparse tells it where a text is none.
