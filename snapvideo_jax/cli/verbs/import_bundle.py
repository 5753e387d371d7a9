"""`snapvideo import`."""

import argparse
from pathlib import Path

from snapvideo_jax.export import bundle
from snapvideo_jax.export.import_bundle import begin


def run(arguments: argparse.Namespace) -> None:
    """`snapvideo import`."""
    workdir = Path(arguments.workdir)
    if workdir.exists() and any(workdir.iterdir()):
        raise ValueError(
            f"--workdir={workdir} is not an empty folder; use another one."
        )
    begin(bundle.read(Path(arguments.bundle), arguments.overrides), workdir)
    print(f"{arguments.bundle} is step 0 of a run: snapvideo train --workdir {workdir}")
