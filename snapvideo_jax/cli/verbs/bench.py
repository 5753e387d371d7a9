"""`snapvideo bench`."""

import argparse
import json

import jax

from snapvideo_jax import config as configs
from snapvideo_jax.cli.options import options
from snapvideo_jax.parallel import processes
from snapvideo_jax.parallel.process_settings import ProcessOptions
from snapvideo_jax.planning.bench import data, measure, models, networks, report


def run(arguments: argparse.Namespace) -> None:
    """`snapvideo bench`."""
    if arguments.what == "models":
        result, text = _models(arguments)
    elif arguments.what == "data":
        config = _config(arguments)
        result = data.bench_data(config, options(data.BenchDataOptions, arguments))
        text = data.describe(result)
    else:
        with processes.processes(options(ProcessOptions, arguments), None):
            config = _config(arguments)
            result = measure.bench(config, options(measure.BenchOptions, arguments))
            text = report.describe(result)
            if jax.process_index():
                return
    print(json.dumps(result) if arguments.json else text)


def _models(arguments: argparse.Namespace) -> tuple[dict, str]:
    if arguments.config or arguments.overrides:
        raise ValueError(
            "bench models has its own configs; leave out --config, or leave out models."
        )
    chosen = options(models.BenchModelsOptions, arguments)
    if arguments.by_part:
        result = models.by_part(chosen)
        return result, networks.describe(result)
    result = models.bench_models(chosen)
    return result, models.describe(result)


def _config(arguments: argparse.Namespace):
    """The config to measure.

    Raises:
      ValueError: it is missing, or an option is for `bench models` only.
    """
    for name in ("only", "divide", "batch", "by_part"):
        if getattr(arguments, name):
            raise ValueError(f"--{name} is for bench models only; leave it out.")
    if not arguments.config:
        raise ValueError("--config is missing; give the config to measure.")
    return configs.load(arguments.config, arguments.overrides)
