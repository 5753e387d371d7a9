"""`snapvideo gallery`."""

import argparse
import logging

from snapvideo_jax.cli.options import options
from snapvideo_jax.evaluation.pages.gallery import GalleryOptions, build_gallery

logger = logging.getLogger(__name__)


def run(arguments: argparse.Namespace) -> None:
    """Writes the page, and lists what it leaves out."""
    gallery = build_gallery(options(GalleryOptions, arguments))
    for problem in gallery.left_out:
        logger.warning("left out: %s", problem)
    print(
        f"{gallery.clips} clips of {gallery.runs} runs, {len(gallery.left_out)} left "
        f"out: {arguments.out}/index.html"
    )
