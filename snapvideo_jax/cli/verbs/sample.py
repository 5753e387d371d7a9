"""`snapvideo sample`."""

import argparse

from snapvideo_jax.cli.options import options
from snapvideo_jax.parallel import processes
from snapvideo_jax.parallel.process_settings import ProcessOptions
from snapvideo_jax.sampling.options import SampleOptions
from snapvideo_jax.sampling.sample import sample


def run(arguments: argparse.Namespace) -> None:
    """`snapvideo sample`."""
    with processes.processes(options(ProcessOptions, arguments), arguments.out):
        sample(options(SampleOptions, arguments))
