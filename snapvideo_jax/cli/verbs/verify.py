"""`snapvideo verify`."""

import argparse

import numpy as np

from snapvideo_jax.cli.options import options
from snapvideo_jax.export.verify import VerifyOptions, verify


def run(arguments: argparse.Namespace) -> None:
    """Prints the differences; exits with 1 where the largest exceeds --tolerance."""
    differences = verify(options(VerifyOptions, arguments))
    for name, difference in differences.items():
        print(f"{name:<20}{difference:.3g}")
    compared = [value for name, value in differences.items() if name[0] != "("]
    largest = float(np.max(compared))  # NaN where one is NaN
    within = largest <= arguments.tolerance
    print(
        f"The largest difference is {largest:.3g}, {'within' if within else 'ABOVE'} "
        f"the tolerance of {arguments.tolerance:g}."
    )
    if not within:
        raise SystemExit(1)
