"""Clips of captions: loading a run, and the verb `snapvideo sample`."""

import dataclasses
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from snapvideo_jax import __version__, distributed, media
from snapvideo_jax import config as configs
from snapvideo_jax.diffusion import Sampler, sigma_schedule
from snapvideo_jax.diffusion.trajectory import kept_steps
from snapvideo_jax.generate import Generator, Guide, Request
from snapvideo_jax.given import beginning
from snapvideo_jax.guiding import about_guidance, guidance_of, guide_of
from snapvideo_jax.metrics import progress
from snapvideo_jax.options import check_least, read_prompts
from snapvideo_jax.outputs import SHEET_CLIPS, Output
from snapvideo_jax.sharding import make_mesh
from snapvideo_jax.states import (
    placed_state,
    profile_of,
    restored,
)
from snapvideo_jax.text.encoder import refuse_long

logger = logging.getLogger(__name__)

BATCH = 64
"""Clips that are made at once where nothing else is asked for."""
LEAST = {
    **{"num_samples": 1, "count": 1, "batch": 1, "fps": 0, "seed": 0},
    **{"cascade_batch": 1, "small_noise": 0, "save_trajectory": 0},
}
"""Smallest values of options on the command line."""


def load(workdir: Path, ema: bool = True, profile: str | None = None):
    """A workdir's experiment, its parameters, their step, and a mesh of all devices.

    Args:
      workdir: of the run.
      ema: its average, not the raw weights.
      profile: folder of an average that `snapvideo ema` made, to be used in their
        place.

    Raises:
      ValueError: the folder holds no run, the run has no checkpoint yet, or there is no
        such average of it.
    """
    config = configs.of_workdir(workdir)
    distributed.keep_compiled(workdir)
    experiment = configs.build(config)
    mesh = make_mesh(configs.MeshConfig(), batch=jax.device_count())
    if profile:
        like = placed_state(experiment, mesh)
        params, step = profile_of(Path(profile), like.params)
    else:
        params, step = restored(workdir, experiment, mesh, ema)
    return experiment, params, step, mesh


def load_guide(experiment: "configs.Experiment", arguments, mesh) -> Guide | None:
    """The guiding model that the command line asks for, if it does.

    Raises:
      ValueError: as `guide_of`, or the checkpoint is not there.
    """
    if (found := guide_of(experiment, arguments)) is None:
        return None
    theirs, workdir, step = found
    params, _ = restored(workdir, theirs, mesh, arguments.ema, step)
    return Guide(theirs.model, theirs.diffusion, params)


def run(arguments) -> None:
    """`snapvideo sample`."""
    with configs.user_errors(), distributed.processes(vars(arguments), arguments.out):
        check_least(arguments, LEAST)
        media.check_formats(arguments.formats)
        if arguments.cascade or arguments.small_clips:
            from snapvideo_jax import cascade  # which needs this module

            cascade.sample(arguments)
            return
        if not arguments.workdir:
            raise ValueError("--workdir is missing; give the folder of a run.")
        prompts = prompts_of(arguments)
        loaded = load(Path(arguments.workdir), arguments.ema, arguments.ema_profile)
        write_clips(arguments, prompts, *loaded)


def write_clips(arguments, prompts, experiment, params, step, mesh) -> None:
    """Writes clips, a contact sheet, and how they were made; process 0 does.

    Clips that the folder has already are not made again.

    Args:
      arguments: of the command line.
      prompts: one for each clip.
      experiment, params, step, mesh: as from `load`.
    """
    refuse_long(experiment.text, prompts)
    sampler = sampler_of(experiment, arguments)
    settings = settings_of(experiment, arguments)
    experiment = guidance_of(experiment, arguments, settings["guidance"])
    start = beginning(arguments, experiment.model, sampler.steps, settings["fps"])
    guide = load_guide(experiment, arguments, mesh)
    batch, kept = min(arguments.batch, len(prompts)), arguments.save_trajectory
    generator = Generator(
        experiment, sampler, mesh, guide, batch=batch, kept=kept, first=start.first
    )
    about = settings | about_of(experiment, arguments, sampler, step, settings)
    about |= start.about
    output = Output(
        Path(arguments.out),
        {n: about | {"prompt": text, "number": n} for n, text in enumerate(prompts)},
        arguments.formats,
        settings["fps"],
        arguments.overwrite,
    )
    requests = requests_of(prompts, output.missing, batch, **settings)

    def make(request: Request):
        clip = start.of(len(request.numbers))
        return generator.make(params, dataclasses.replace(request, clip=clip))

    levels = strip_levels(arguments, experiment, sampler, start.first)
    fill(output, requests, make, experiment, levels)


def strip_levels(arguments, experiment, sampler: Sampler, first: int = 0):
    """Noise levels that --save_trajectory shows; none without it."""
    if not arguments.save_trajectory:
        return []
    levels = sigma_schedule(experiment.diffusion, sampler.steps)
    chosen = kept_steps(sampler.steps, arguments.save_trajectory, first)
    return [float(levels[step]) for step in chosen]


def fill(
    output: Output, requests, make, experiment, levels=(), frames: int | None = None
) -> None:
    """Makes what a folder lacks, writes it, and the contact sheet.

    Args:
      output: the folder.
      requests: for the clips that are missing.
      make: a request to its clips, see `generate.Made`.
      experiment: gives the settings of sheets.
      levels: of noise at which clips were kept on their way, for strips.
      frames: of the clips, where they are not as many as the network makes.
    """
    is_writer = jax.process_index() == 0
    began, shown = time.monotonic(), {}
    for request in progress(requests, len(requests), name="batch", is_writer=is_writer):
        made = make(request)
        if not is_writer:
            continue
        for row, (number, clip) in enumerate(
            zip(request.numbers, made.clips, strict=True)
        ):
            if levels:
                way = made.noisy[row], made.estimates[row]
                output.write_strip(number, *way, levels, experiment.sheets.scale)
            output.write(number, clip)
            if len(shown) < SHEET_CLIPS:
                shown[number] = clip
    if not is_writer:
        return
    length, *size = clip_shape(experiment.model)
    output.write_sheet(shown, (frames or length, *size), experiment.sheets)
    seconds, sheet = time.monotonic() - began, output.folder / "sheet.gif"
    logger.info("%d clips in %.1f s: %s", len(output.missing), seconds, sheet)


def clip_shape(model) -> tuple[int, int, int, int]:
    """Of what a network makes, ``t h w c``."""
    return model.frames, model.height, model.width, model.out_channels


def requests_of(
    prompts: Sequence[str] | Mapping[int, str],
    numbers: Sequence[int],
    batch: int,
    **settings,
) -> list[Request]:
    """Requests of up to ``batch`` of the samples whose numbers are given."""
    parts = [numbers[at : at + batch] for at in range(0, len(numbers), batch)]
    return [
        Request(prompts=[prompts[n] for n in part], numbers=part, **settings)
        for part in parts
    ]


def about_of(experiment, arguments, sampler: Sampler, step: int, settings) -> dict:
    """How all clips of a command are made, as it is written beside each of them."""
    return {
        **about_guidance(experiment, arguments, settings["guidance"]),
        "sampler": dataclasses.asdict(sampler),
        "workdir": arguments.workdir,
        "step": step,
        "weights": weights_of(arguments),
        "version": __version__,
    }


def sampler_of(experiment: "configs.Experiment", arguments) -> Sampler:
    """The experiment's sampler with what the command line changes."""
    changes = {
        name: value
        for name in ("steps", "solver", "churn")
        if (value := getattr(arguments, name)) is not None
    }
    return dataclasses.replace(experiment.sampler, **changes)


def settings_of(experiment: "configs.Experiment", arguments) -> dict[str, Any]:
    """What all requests of a command share: seed, guidance, frame-rate, resolution."""
    sheets = experiment.sheets
    return dict(
        seed=arguments.seed,
        guidance=sheets.guidance if arguments.guidance is None else arguments.guidance,
        fps=sheets.fps if arguments.fps is None else arguments.fps,
        resolution=resolution_of(experiment),
    )


def weights_of(arguments) -> str:
    """Which weights a command samples from: "ema", "raw", or an average's folder."""
    return arguments.ema_profile or ("ema" if arguments.ema else "raw")


def resolution_of(experiment: "configs.Experiment") -> tuple[int, int]:
    """The original resolution that samples are conditioned on."""
    asked = experiment.sheets.resolution
    return asked if any(asked) else (experiment.data.height, experiment.data.width)


def prompts_of(arguments) -> list[str]:
    """The prompts of the command line and of --prompts, each ``num_samples`` times.

    Raises:
      ValueError: there are none, or the file cannot be read.
    """
    prompts = list(arguments.prompt or ())
    if arguments.prompts:
        prompts += read_prompts(Path(arguments.prompts))
    if not prompts:
        raise ValueError(
            'There is nothing to sample; give --prompt "..." or --prompts.'
        )
    return [prompt for prompt in prompts for _ in range(arguments.num_samples)]
