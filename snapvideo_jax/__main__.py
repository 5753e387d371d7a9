"""The command line: ``snapvideo VERB ...``, the same as ``python -m snapvideo_jax``."""

import argparse
import importlib
import logging
import sys

import absl.logging
from absl import flags

from snapvideo_jax import __version__
from snapvideo_jax.cli.errors import user_errors
from snapvideo_jax.cli.parsers import (
    evaluating,
    exporting,
    pages,
    planning,
    preparing,
    protocols,
    sampling,
    scaling,
    training,
)
from snapvideo_jax.cli.parsers.common import Parser
from snapvideo_jax.parallel import host_memory

MODULES = {"import": "import_bundle"}
"""Modules of `cli.verbs` whose verb has another name."""


def main() -> None:
    """Parses the command line and calls the verb."""
    host_memory.retain_freed_pages()
    _log_to_stderr()
    parser = _parser()
    arguments, rest = parser.parse_known_args()
    if rest and not arguments.takes_overrides:
        parser.error(f"unknown argument {rest[0]!r}; see --help.")
    arguments.overrides = tuple(rest)
    flags.FLAGS.mark_as_parsed()  # Grain's worker processes ask absl for their flags.
    name = MODULES.get(arguments.verb, arguments.verb)
    with user_errors():
        importlib.import_module(f"snapvideo_jax.cli.verbs.{name}").run(arguments)


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
    parser = Parser(
        prog="snapvideo", description="Snap Video (arXiv 2402.14797) in JAX."
    )
    parser.add_argument(
        "--version", action="version", version=f"snapvideo_jax {__version__}"
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for group in (
        *(training, sampling, exporting, planning, preparing),
        *(evaluating, protocols, scaling, pages),
    ):
        group.add_verbs(verbs)
    return parser


if __name__ == "__main__":
    main()
