"""`snapvideo import`."""

import argparse

from snapvideo_jax.cli.options import options
from snapvideo_jax.export.import_bundle import ImportOptions, import_bundle


def run(arguments: argparse.Namespace) -> None:
    """Imports, and prints the command that trains."""
    import_bundle(options(ImportOptions, arguments))
    print(
        f"{arguments.bundle} is step 0 of a run: snapvideo train --workdir "
        f"{arguments.workdir}"
    )
