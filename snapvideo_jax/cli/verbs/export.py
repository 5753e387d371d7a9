"""`snapvideo export`."""

import argparse

from snapvideo_jax.cli.options import options
from snapvideo_jax.export.export import ExportOptions, export
from snapvideo_jax.io.messages import human_bytes


def run(arguments: argparse.Namespace) -> None:
    """Exports, and prints the number and size of the files."""
    files = export(options(ExportOptions, arguments))
    size = sum(path.stat().st_size for path in files)
    print(f"{len(files)} files, {human_bytes(size, 4)}: {arguments.out}")
