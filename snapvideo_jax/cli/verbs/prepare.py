"""The verb `snapvideo prepare`: prepares a data set for training, with Apache Beam."""

import argparse
from typing import Any

from snapvideo_jax import config as configs
from snapvideo_jax.data.prepare.config import build


def run(arguments: argparse.Namespace) -> None:
    """Prepares a data set, and prints a summary of it."""
    config = build(configs.load(arguments.config, arguments.overrides))
    try:
        from snapvideo_jax.data.prepare.pipeline import prepare
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{error.name} is not installed; pip install 'snapvideo_jax[prepare]'."
        ) from error
    result = prepare(config, arguments.out, arguments.beam)
    finished, written = result.finished_before, result.written
    print(
        f"{finished + written} shards: {finished} finished before, {written} written."
    )
    for stage, kinds in result.manifest["stages"].items():
        for kind, sums in kinds.items():
            print(f"{stage}: {_summary(kind, sums)}")
    for rule, files in result.manifest["rejected"].items():
        print(f"rejected, {rule}: {files}")


def _summary(kind: str, sums: dict[str, Any]) -> str:
    size = f"{sums['bytes'] / 1e6:.1f} MB"
    if kind == "image":
        return f"{sums['records']} images, {size}"
    return f"{sums['records']} clips, {sums['hours']:.3f} hours, {size}"
