"""Clips of captions by one network, written to a folder."""

import dataclasses
import logging
import time
from collections.abc import Callable, Sequence

import jax

from snapvideo_jax.diffusion import sigma_schedule
from snapvideo_jax.diffusion.trajectory import recorded_steps
from snapvideo_jax.io.progress import progress
from snapvideo_jax.sampling.generator import Request, Samples, requests_of
from snapvideo_jax.sampling.inputs import init_clip_of
from snapvideo_jax.sampling.loading import Setup
from snapvideo_jax.sampling.options import SampleOptions
from snapvideo_jax.sampling.outputs import SHEET_CLIPS, Output

logger = logging.getLogger(__name__)


def sample_clips(options: SampleOptions) -> Output:
    """Samples the clips that ``options.out`` lacks, by the network of a workdir.

    Returns:
      The folder; it is complete.

    Raises:
      ValueError: what is asked for makes no sense, before anything is compiled.
    """
    prompts = options.captions()
    setup = Setup.of(options.workdir, options, prompts)
    settings = setup.settings
    start = init_clip_of(options, setup)
    run = setup.load()
    batch = min(options.batch, len(prompts))
    generator = run.generator(
        batch=batch,
        trajectory=options.save_trajectory,
        first_step=start.first_step,
    )
    about = settings | run.about() | start.about
    output = Output(
        options,
        {
            number: about | {"prompt": text, "number": number}
            for number, text in enumerate(prompts)
        },
        setup.clip_shape,
        settings["fps"],
        setup.experiment.sheets,
    )

    def samples(request: Request) -> Samples:
        clips = start.repeated(len(request.numbers))
        request = dataclasses.replace(request, init_clip=clips)
        return generator.samples(run.params, request)

    requests = requests_of(prompts, batch, output.missing, **settings)
    levels = trajectory_levels(options, setup, start.first_step)
    fill(output, requests, samples, levels)
    return output


def trajectory_levels(
    options: SampleOptions, setup: Setup, first: int = 0
) -> list[float]:
    """Noise levels that --save_trajectory shows; none without it."""
    if not options.save_trajectory:
        return []
    steps = setup.sampler.steps
    levels = sigma_schedule(setup.experiment.diffusion, steps)
    chosen = recorded_steps(steps, options.save_trajectory, first)
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
