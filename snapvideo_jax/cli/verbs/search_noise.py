"""`snapvideo search_noise`."""

import argparse

import jax

from snapvideo_jax.cli.options import options
from snapvideo_jax.parallel import processes
from snapvideo_jax.parallel.process_settings import ProcessOptions
from snapvideo_jax.sampling.noise_search import search
from snapvideo_jax.sampling.options import SearchNoiseOptions


def run(arguments: argparse.Namespace) -> None:
    """`snapvideo search_noise`; process 0 prints the best noise level."""
    with processes.processes(options(ProcessOptions, arguments), arguments.out):
        found = search(options(SearchNoiseOptions, arguments))
        if jax.process_index() == 0:
            best = f"{found['best']:g}"
            level = found["levels"][best]
            print(
                f"--small_noise {best} is best of {len(found['levels'])} by "
                f"{found['score']}: {level['mean']:.4g}, the standard error is "
                f"{level['standard_error']:.2g} ({found['count']} clips); bilinear "
                f"alone has {found['bilinear']:.4g}."
            )
