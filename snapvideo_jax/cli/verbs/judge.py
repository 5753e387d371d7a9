"""The verb `snapvideo judge`: does a model trained on shapes do what prompts say?"""

from pathlib import Path

from snapvideo_jax.cli.options import options
from snapvideo_jax.evaluation.shapes import judge_clips
from snapvideo_jax.io.options import check_least
from snapvideo_jax.parallel import processes
from snapvideo_jax.parallel.process_settings import ProcessOptions
from snapvideo_jax.sampling import loading
from snapvideo_jax.sampling.options import LEAST


def run(arguments) -> None:
    """`snapvideo judge`."""
    with processes.processes(options(ProcessOptions, arguments), str(arguments.out)):
        check_least(arguments, LEAST)
        workdir = Path(arguments.workdir)
        loaded = loading.load(workdir, arguments.ema, arguments.ema_profile)
        judge_clips(arguments, *loaded)
