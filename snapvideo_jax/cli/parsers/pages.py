"""Options of the verbs `study` and `gallery`."""

import argparse
from pathlib import Path

from snapvideo_jax.cli.parsers.common import add
from snapvideo_jax.cli.parsers.types import integer, number, path


def add_verbs(verbs) -> None:
    """Adds the verbs to a command line."""
    study = add(
        verbs, "study", "Run a blinded user study: build its page, tally its votes."
    )
    actions = study.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_build(actions)
    _add_tally(actions)
    _add_gallery(verbs)


def _add_build(actions) -> None:
    build = add(
        actions,
        "build",
        "Write the page of a blinded study, and its key.",
        "The first method is compared with each of the others.",
    )
    build.add_argument(
        "--method",
        type=_method,
        action="append",
        required=True,
        metavar="NAME=DIR",
        help="a method and its clips of `snapvideo sample`; repeat for each method",
    )
    build.add_argument(
        "--prompts",
        type=path,
        required=True,
        metavar="FILE",
        help="prompts, one a line",
    )
    build.add_argument(
        "--out", type=path, required=True, metavar="DIR", help="folder of the page"
    )
    build.add_argument(
        "--key",
        type=path,
        metavar="FILE",
        help="which method made which clip (default: OUT.key.json)",
    )
    build.add_argument(
        "--seed",
        type=integer(least=0),
        default=0,
        help="of order, sides and file names (default: 0)",
    )
    build.add_argument(
        "--fps",
        type=number(least=0),
        default=0.0,
        help="of all clips (default: the lowest)",
    )
    build.add_argument(
        "--seconds",
        type=number(least=0),
        default=0.0,
        help="longest clip (default: the shortest of the clips)",
    )
    build.add_argument(
        "--size",
        type=_size,
        default=(0, 0),
        metavar="HEIGHTxWIDTH",
        help="of all clips (default: the smallest)",
    )


def _add_tally(actions) -> None:
    tally = add(
        actions, "tally", "Count the votes of a study, as in Tab. 6 of the paper."
    )
    tally.add_argument(
        "votes", type=path, nargs="+", metavar="FILE", help="files that raters sent"
    )
    tally.add_argument(
        "--key", type=path, required=True, metavar="FILE", help="of the study"
    )
    tally.add_argument(
        "--seed", type=integer(least=0), default=0, help="of the bootstrap (default: 0)"
    )
    tally.add_argument(
        "--resamples",
        type=integer(least=1),
        default=2000,
        help="of the bootstrap (default: 2000)",
    )
    tally.add_argument("--json", action="store_true", help="print JSON")


def _add_gallery(verbs) -> None:
    verb = add(
        verbs,
        "gallery",
        "Write a page that shows samples by prompt and run.",
        "Metrics come from JSON files of evaluate and judge, and from metrics.jsonl,\n"
        "if they are in the folder of the clips.",
    )
    verb.add_argument(
        "folders",
        type=path,
        nargs="+",
        metavar="DIR",
        help="folder of `snapvideo sample`, or of such folders",
    )
    verb.add_argument(
        "--out", type=path, required=True, metavar="DIR", help="folder of the page"
    )


def _method(text: str) -> tuple[str, Path]:
    """A method and its folder, as in ours=samples/ours."""
    name, separator, folder = text.partition("=")
    if not separator or not name or not folder:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not NAME=DIR, as in ours=samples/ours."
        )
    return name, path(folder)


def _size(text: str) -> tuple[int, int]:
    """Height and width, as in 288x512."""
    height, separator, width = text.lower().partition("x")
    if not (separator and height.isdecimal() and width.isdecimal()):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a size; use HEIGHTxWIDTH, as in 288x512."
        )
    return int(height), int(width)
