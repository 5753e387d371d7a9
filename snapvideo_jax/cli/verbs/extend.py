"""`snapvideo extend`."""

import argparse

from snapvideo_jax.cli.options import options
from snapvideo_jax.parallel import processes
from snapvideo_jax.parallel.process_settings import ProcessOptions
from snapvideo_jax.sampling.long_video import extend
from snapvideo_jax.sampling.options import ExtendOptions


def run(arguments: argparse.Namespace) -> None:
    """`snapvideo extend`."""
    with processes.processes(options(ProcessOptions, arguments), arguments.out):
        extend(options(ExtendOptions, arguments))
