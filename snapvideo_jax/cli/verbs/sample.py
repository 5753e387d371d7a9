"""`snapvideo sample`."""

from pathlib import Path

from snapvideo_jax.io import media
from snapvideo_jax.io.options import check_least
from snapvideo_jax.parallel import processes
from snapvideo_jax.sampling.clips import write_clips
from snapvideo_jax.sampling.loading import load
from snapvideo_jax.sampling.options import LEAST, prompts_of


def run(arguments) -> None:
    """`snapvideo sample`."""
    with processes.processes(vars(arguments), arguments.out):
        check_least(arguments, LEAST)
        media.check_formats(arguments.formats)
        if arguments.cascade or arguments.small_clips:
            from snapvideo_jax.sampling import cascade  # which needs this module

            cascade.sample(arguments)
            return
        if not arguments.workdir:
            raise ValueError("--workdir is missing; give the folder of a run.")
        prompts = prompts_of(arguments)
        loaded = load(Path(arguments.workdir), arguments.ema, arguments.ema_profile)
        write_clips(arguments, prompts, *loaded)
