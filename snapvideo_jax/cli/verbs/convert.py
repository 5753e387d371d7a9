"""`snapvideo convert`: converts a published checkpoint of a metric network."""

import argparse

from snapvideo_jax.evaluation.weights.convert import convert


def run(arguments: argparse.Namespace) -> None:
    header = convert(
        arguments.network,
        arguments.weights,
        arguments.out,
        arguments.mean,
        arguments.quick_gelu,
    )
    print(f"{arguments.out}: {header['network']} from {header['source']}")
    print(f"layout {header['layout']}, SHA-256 {header['source_sha256']}")
