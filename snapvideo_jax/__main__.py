"""The command line: ``snapvideo VERB ...``, the same as ``python -m snapvideo_jax``."""

import argparse
import importlib
import logging
import sys

import absl.logging
from absl import flags

from snapvideo_jax import __version__
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
from snapvideo_jax.parallel import host_memory

TAKE_OVERRIDES = (
    *("train", "ema", "replay", "rehearse", "import"),
    *("plan", "bench", "encode_text", "prepare", "scaling"),
)
"""Verbs whose further arguments change fields of --config."""
ELSEWHERE = {"import": "import_bundle"}
"""Modules of verbs that have another name."""


def main() -> None:
    """Parses the command line and calls the verb."""
    host_memory.keep_pages()
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
    name = ELSEWHERE.get(arguments.verb, arguments.verb)
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
    parser = argparse.ArgumentParser(
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
