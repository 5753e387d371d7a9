"""Clips of captions by one network, written to a folder."""

import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from snapvideo_jax import __version__
from snapvideo_jax.config import Experiment
from snapvideo_jax.diffusion import Sampler, sigma_schedule
from snapvideo_jax.diffusion.trajectory import recorded_steps
from snapvideo_jax.io.progress import progress
from snapvideo_jax.sampling import loading
from snapvideo_jax.sampling.generator import Generator, Request, Samples, requests_of
from snapvideo_jax.sampling.guidance_options import about_guidance, guidance_of
from snapvideo_jax.sampling.inputs import init_clip_of
from snapvideo_jax.sampling.options import (
    SampleOptions,
    SamplerOptions,
    sampler_of,
    settings_of,
    weights_of,
)
from snapvideo_jax.sampling.outputs import SHEET_CLIPS, Output
from snapvideo_jax.text.encoder import refuse_long

logger = logging.getLogger(__name__)


def sample_clips(options: SampleOptions) -> Output:
    """Samples the clips that ``options.out`` lacks, by the network of a workdir.

    Returns:
      The folder; it is complete.

    Raises:
      ValueError: what is asked for makes no sense, before anything is compiled.
    """
    prompts = options.captions()
    experiment, params, step, mesh = loading.load(
        Path(options.workdir), options.ema, options.ema_profile
    )
    refuse_long(experiment.text, prompts)
    sampler = sampler_of(experiment, options)
    settings = settings_of(experiment, options)
    experiment = guidance_of(experiment, options, settings["guidance"])
    start = init_clip_of(options, experiment.model, sampler.steps, settings["fps"])
    guide = loading.load_guide(experiment, options, mesh)
    batch = min(options.batch, len(prompts))
    generator = Generator(
        experiment,
        sampler,
        mesh,
        guide,
        batch=batch,
        trajectory=options.save_trajectory,
        first_step=start.first_step,
    )
    about = settings | about_of(
        experiment, options, options.workdir, sampler, step, settings["guidance"]
    )
    output = Output(
        options,
        {
            number: about | start.about | {"prompt": text, "number": number}
            for number, text in enumerate(prompts)
        },
        clip_shape(experiment.model),
        settings["fps"],
        experiment.sheets,
    )

    def samples(request: Request) -> Samples:
        clips = start.repeated(len(request.numbers))
        return generator.samples(params, dataclasses.replace(request, init_clip=clips))

    requests = requests_of(prompts, batch, output.missing, **settings)
    levels = trajectory_levels(options, experiment, sampler, start.first_step)
    fill(output, requests, samples, levels)
    return output


def trajectory_levels(
    options: SampleOptions, experiment: Experiment, sampler: Sampler, first: int = 0
) -> list[float]:
    """Noise levels that --save_trajectory shows; none without it."""
    if not options.save_trajectory:
        return []
    levels = sigma_schedule(experiment.diffusion, sampler.steps)
    chosen = recorded_steps(sampler.steps, options.save_trajectory, first)
    return [float(levels[step]) for step in chosen]


def fill(
    output: Output,
    requests: Sequence[Request],
    samples: Callable[[Request], Samples],
    levels: Sequence[float] = (),
) -> None:
    """Samples what a folder lacks; process 0 writes it and the contact sheet.

    Args:
      output: the folder.
      requests: for the clips that are missing.
      samples: as `Generator.samples`.
      levels: noise levels of recorded trajectories.
    """
    is_writer = jax.process_index() == 0
    began, shown = time.monotonic(), {}
    for request in progress(requests, len(requests), name="batch", is_writer=is_writer):
        made = samples(request)
        if not is_writer:
            continue
        for row, (number, clip) in enumerate(
            zip(request.numbers, made.clips, strict=True)
        ):
            if levels:
                way = made.noisy[row], made.estimates[row]
                output.write_trajectory(number, *way, levels)
            output.write(number, clip)
            if len(shown) < SHEET_CLIPS:
                shown[number] = clip
    if is_writer:
        output.write_sheet(shown)
        seconds, count = time.monotonic() - began, len(output.missing)
        logger.info("%d clips in %.1f s: %s", count, seconds, output.sheet)


def clip_shape(model) -> tuple[int, int, int, int]:
    """Shape ``t h w c`` of a network's clips."""
    return model.frames, model.height, model.width, model.out_channels


def about_of(
    experiment: Experiment,
    options: SamplerOptions,
    workdir: str | Path,
    sampler: Sampler,
    step: int,
    guidance: float,
) -> dict[str, Any]:
    """How clips are sampled, for the JSON of each of them."""
    return {
        **about_guidance(experiment, options, guidance),
        "sampler": dataclasses.asdict(sampler),
        "workdir": str(workdir),
        "step": step,
        "weights": weights_of(options),
        "version": __version__,
    }
