"""`snapvideo extend`."""

from pathlib import Path

from snapvideo_jax import config as configs
from snapvideo_jax.diffusion.windows import windows
from snapvideo_jax.io import media
from snapvideo_jax.io.options import check_least
from snapvideo_jax.parallel import processes
from snapvideo_jax.sampling import options
from snapvideo_jax.sampling.long_video import extend, known_frames, rates_of
from snapvideo_jax.text.encoder import refuse_long


def run(arguments) -> None:
    """`snapvideo extend`."""
    with processes.processes(vars(arguments), arguments.out):
        check_least(arguments, options.LEAST | {"frames": 1})
        media.check_formats(arguments.formats)
        prompts = options.prompts_of(arguments)
        experiment = configs.build(configs.of_workdir(Path(arguments.workdir)))
        if experiment.model.is_upsampler:
            raise ValueError(
                f"--workdir={arguments.workdir} is an upsampler; use a first stage."
            )
        refuse_long(experiment.text, prompts)
        settings = options.settings_of(experiment, arguments)
        rates = rates_of(arguments, experiment, settings["fps"])
        known = known_frames(arguments, experiment, rates[-1])
        plan = windows(
            arguments.frames, rates, experiment.model.frames, known, arguments.overlap
        )
        if not plan:
            raise ValueError("All frames are known; there is nothing to make.")
        settings["fps"] = rates[-1]
        extend(arguments, prompts, plan, known, settings)
