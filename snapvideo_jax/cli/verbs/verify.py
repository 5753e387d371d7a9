"""`snapvideo verify`."""

import argparse
from pathlib import Path

import numpy as np

from snapvideo_jax.export import bundle
from snapvideo_jax.export.verify import verify


def run(arguments: argparse.Namespace) -> None:
    """`snapvideo verify`; exits with 1 where the difference is too large."""
    if not arguments.tolerance >= 0:
        raise ValueError(
            f"--tolerance={arguments.tolerance:g} is below 0; use 0 or more."
        )
    found = bundle.read(Path(arguments.bundle))
    compared = verify(found, Path(arguments.workdir), arguments.weights)
    largest = 0.0
    for name, difference in compared:
        print(f"{name:<20}{difference:.3g}", flush=True)
        if not name.startswith("("):
            largest = float(np.maximum(largest, difference))  # NaN stays
    within = largest <= arguments.tolerance
    print(
        f"The largest difference is {largest:.3g}, {'within' if within else 'ABOVE'} "
        f"the tolerance of {arguments.tolerance:g}."
    )
    if not within:
        raise SystemExit(1)
