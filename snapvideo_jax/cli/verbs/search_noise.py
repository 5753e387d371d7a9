"""`snapvideo search_noise`."""

import importlib.util

from snapvideo_jax.io.options import check_least
from snapvideo_jax.parallel import processes
from snapvideo_jax.sampling import cascade, options
from snapvideo_jax.sampling.noise_search import SCORES, grid_of, real_clips, search


def run(arguments) -> None:
    """`snapvideo search_noise`."""
    with processes.processes(vars(arguments), arguments.out):
        check_least(arguments, options.LEAST)
        if arguments.score not in SCORES:
            raise ValueError(
                f"--score={arguments.score} is unknown; use one of {', '.join(SCORES)}."
            )
        if importlib.util.find_spec("matplotlib") is None:
            raise ValueError(
                "Plots need matplotlib; pip install 'snapvideo_jax[plot]' brings it."
            )
        # Here the upsampler is the only stage, so its options have their plain names.
        for name in ("steps", "solver", "guidance"):
            setattr(arguments, f"cascade_{name}", getattr(arguments, name))
        second = cascade.second_stage(arguments)
        grid = grid_of(arguments, second.experiment)
        real = real_clips(arguments, second.experiment)
        search(second, grid, real)
