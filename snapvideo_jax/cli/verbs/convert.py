"""The verb `snapvideo convert`: metric networks of others made into files of ours."""

from pathlib import Path

from snapvideo_jax.evaluation.weights.convert import convert


def run(arguments) -> None:
    """`snapvideo convert`."""
    header = convert(
        arguments.network,
        Path(arguments.weights),
        Path(arguments.out),
        Path(arguments.mean) if arguments.mean else None,
        arguments.quick_gelu,
    )
    print(f"{arguments.out}: {header['network']} from {header['source']}")
    print(f"layout {header['layout']}, SHA-256 {header['source_sha256']}")
