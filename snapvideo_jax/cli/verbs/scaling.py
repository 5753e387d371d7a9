"""`snapvideo scaling`: generate, run, fit and plot."""

import argparse
import json

from snapvideo_jax import config as configs
from snapvideo_jax.cli.options import options
from snapvideo_jax.parallel import processes
from snapvideo_jax.parallel.process_settings import ProcessOptions
from snapvideo_jax.scaling import extrapolate, plot, runs, sweep


def run(arguments: argparse.Namespace) -> None:
    """`snapvideo scaling generate`, `run`, `fit` and `plot`."""
    out = arguments.out
    if arguments.action == "generate":
        config = configs.load(arguments.config, arguments.overrides)
        generated = sweep.generate(config, options(sweep.SweepOptions, arguments))
        print(sweep.describe(generated))
    elif arguments.action == "run":
        with processes.processes(options(ProcessOptions, arguments), str(out)):
            runs.run_all(out, arguments.part, arguments.samples)
    elif arguments.action == "fit":
        law = extrapolate.fit(options(extrapolate.FitOptions, arguments))
        print(json.dumps(law) if arguments.json else extrapolate.describe(law))
    else:
        print(*plot.plot(out))
