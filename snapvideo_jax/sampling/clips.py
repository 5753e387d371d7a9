"""Clips of captions: loading a run, and the verb `snapvideo sample`."""

import dataclasses
import logging
import time
from pathlib import Path

import jax

from snapvideo_jax import __version__
from snapvideo_jax.diffusion import Sampler, sigma_schedule
from snapvideo_jax.diffusion.trajectory import recorded_steps
from snapvideo_jax.io.progress import progress
from snapvideo_jax.sampling.generator import Generator, Request, requests_of
from snapvideo_jax.sampling.guidance_options import (
    about_guidance,
    guidance_of,
)
from snapvideo_jax.sampling.inputs import beginning
from snapvideo_jax.sampling.loading import load_guide
from snapvideo_jax.sampling.options import sampler_of, settings_of, weights_of
from snapvideo_jax.sampling.outputs import SHEET_CLIPS, Output
from snapvideo_jax.text.encoder import refuse_long

logger = logging.getLogger(__name__)


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
        experiment,
        sampler,
        mesh,
        guide,
        batch=batch,
        trajectory=kept,
        first_step=start.first,
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
    requests = requests_of(prompts, batch, output.missing, **settings)

    def make(request: Request):
        clip = start.of(len(request.numbers))
        return generator.samples(params, dataclasses.replace(request, init_clip=clip))

    levels = strip_levels(arguments, experiment, sampler, start.first)
    fill(output, requests, make, experiment, levels)


def strip_levels(arguments, experiment, sampler: Sampler, first: int = 0):
    """Noise levels that --save_trajectory shows; none without it."""
    if not arguments.save_trajectory:
        return []
    levels = sigma_schedule(experiment.diffusion, sampler.steps)
    chosen = recorded_steps(sampler.steps, arguments.save_trajectory, first)
    return [float(levels[step]) for step in chosen]


def fill(
    output: Output, requests, make, experiment, levels=(), frames: int | None = None
) -> None:
    """Makes what a folder lacks, writes it, and the contact sheet.

    Args:
      output: the folder.
      requests: for the clips that are missing.
      make: a request to its clips, see `generator.Samples`.
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
