"""The verb `snapvideo gallery`: a page of samples, to look through and compare."""

import argparse
import logging
from pathlib import Path

from snapvideo_jax.evaluation.pages.gallery import build_gallery

logger = logging.getLogger(__name__)


def run(arguments: argparse.Namespace) -> None:
    """Makes the page, and names what is left out of it."""
    out = Path(arguments.out)
    made = build_gallery([Path(folder) for folder in arguments.folders], out)
    for problem in made.left_out:
        logger.warning("left out: %s", problem)
    print(
        f"{made.clips} clips of {made.runs} runs, {len(made.left_out)} left out: "
        f"{out}/index.html"
    )
