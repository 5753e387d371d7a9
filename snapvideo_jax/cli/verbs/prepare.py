"""The verb `snapvideo prepare`: a data set, made ready for training on Apache Beam."""

import argparse
from typing import Any

from snapvideo_jax import config as configs
from snapvideo_jax.data.prepare.config import _absolute, build
from snapvideo_jax.io.messages import human_bytes


def run(arguments: argparse.Namespace) -> None:
    """Prepares a data set, and prints what it holds."""
    config = build(configs.load(arguments.config, arguments.overrides))
    try:
        from snapvideo_jax.data.prepare.pipeline import prepare
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{error.name} is not installed; pip install 'snapvideo_jax[prepare]'."
        ) from error
    outcome = prepare(config, _absolute(arguments.out), arguments.beam)
    print(
        f"{outcome.kept + outcome.made} shards: {outcome.kept} kept, finished before; "
        f"{outcome.made} made."
    )
    for stage, kinds in outcome.manifest["stages"].items():
        for kind, sums in kinds.items():
            print(f"{stage}: {_described(kind, sums)}")
    for rule, files in outcome.manifest["rejected"].items():
        print(f"rejected, {rule}: {files}")


def _described(kind: str, sums: dict[str, Any]) -> str:
    size = human_bytes(sums["bytes"])
    if kind == "image":
        return f"{sums['records']} images, {size}"
    return f"{sums['records']} clips, {sums['hours']:.3f} hours, {size}"
