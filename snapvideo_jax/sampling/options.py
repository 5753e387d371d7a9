"""Options that sampling commands share: sampler, weights, prompts, resolution."""

import dataclasses
from pathlib import Path
from typing import Any

from snapvideo_jax import config as configs
from snapvideo_jax.diffusion import Sampler
from snapvideo_jax.io.options import read_prompts

BATCH = 64
"""Clips that are sampled at once by default."""
LEAST = {
    **{"num_samples": 1, "count": 1, "batch": 1, "fps": 0, "seed": 0},
    **{"cascade_batch": 1, "small_noise": 0, "save_trajectory": 0},
}
"""Smallest values of options on the command line."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplerOptions:
    """How clips are sampled: the options that every sampling command shares.

    None stands for the value in the run's config.

    Attributes:
      steps: noise levels; 1 or more (config.sampler.steps).
      solver: name in `diffusion.SOLVERS` (config.sampler.solver).
      churn: EDM's ``S_churn``, 0 or more (config.sampler.churn).
      guidance: weight ``g`` of ``D_c + g (D_c - D_u)``; 0 is the plain conditional
        model, other papers' weight is ``1 + g`` (config.sheets.guidance).
      oscillate: alternates between a low weight and ``guidance`` after some steps
        (config.guidance.oscillate, .after, .low).
      guidance_interval: lowest and highest noise level that is guided
        (config.guidance.interval).
      threshold: quantile of dynamic thresholding in 0..1; 0 disables it
        (config.guidance.threshold).
      negative_prompt: caption of the unconditional pass
        (config.guidance.negative_prompt).
      autoguide: "WORKDIR" or "WORKDIR@STEP" of a smaller or earlier guiding model.
      autoguidance: weight ``w`` of ``D_1 + (w - 1) (D_1 - D_0)``, where ``D_0`` is that
        model; 1 disables it (config.guidance.autoguidance).
      fps: frame rate that clips are conditioned on and written with; 0 makes images
        (config.sheets.fps).
      seed: of the noise, 0 or more.
      batch: clips that are sampled at once; 1 or more.
      ema: samples from the EMA weights; False from the raw ones.
      ema_profile: folder of a post-hoc EMA written by `snapvideo ema`, used in place of
        both.

    Raises:
      ValueError: a value is out of range, or options contradict each other.
    """

    steps: int | None = None
    solver: str | None = None
    churn: float | None = None
    guidance: float | None = None
    oscillate: bool | None = None
    guidance_interval: tuple[float, ...] | None = None
    threshold: float | None = None
    negative_prompt: str | None = None
    autoguide: str | None = None
    autoguidance: float | None = None
    fps: float | None = None
    seed: int = 0
    batch: int = BATCH
    ema: bool = True
    ema_profile: str | None = None

    def __post_init__(self):
        for name, least in (("batch", 1), ("seed", 0), ("fps", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"--{name}={value} is too small; use {least} or more.")
        interval = self.guidance_interval
        if interval is not None and len(interval) != 2:
            raise ValueError(
                f"--guidance_interval={','.join(map('{:g}'.format, interval))} is not "
                "two noise levels with a comma between, as 0.3,5."
            )
        if self.autoguidance is not None and not self.autoguide:
            raise ValueError(
                f"--autoguidance={self.autoguidance:g} is the weight of a guiding "
                "model; give --autoguide WORKDIR too."
            )


def sampler_of(experiment: configs.Experiment, options) -> Sampler:
    """The experiment's sampler with the changes of `SamplerOptions`."""
    changes = {
        name: value
        for name in ("steps", "solver", "churn")
        if (value := getattr(options, name)) is not None
    }
    return dataclasses.replace(experiment.sampler, **changes)


def settings_of(experiment: configs.Experiment, options) -> dict[str, Any]:
    """Settings that all requests share: seed, guidance, frame rate, resolution."""
    sheets = experiment.sheets
    return dict(
        seed=options.seed,
        guidance=sheets.guidance if options.guidance is None else options.guidance,
        fps=sheets.fps if options.fps is None else options.fps,
        resolution=resolution_of(experiment),
    )


def weights_of(options) -> str:
    """The weights that are sampled from: "ema", "raw", or a post-hoc EMA's folder."""
    return options.ema_profile or ("ema" if options.ema else "raw")


def resolution_of(experiment: configs.Experiment) -> tuple[int, int]:
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
