"""Options that sampling commands share: sampler, weights, prompts, resolution."""

import dataclasses
from pathlib import Path
from typing import Any

from snapvideo_jax import config as configs
from snapvideo_jax.diffusion import Sampler
from snapvideo_jax.io.options import read_prompts

BATCH = 64
"""Clips that are made at once where nothing else is asked for."""
LEAST = {
    **{"num_samples": 1, "count": 1, "batch": 1, "fps": 0, "seed": 0},
    **{"cascade_batch": 1, "small_noise": 0, "save_trajectory": 0},
}
"""Smallest values of options on the command line."""


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
