"""Typed options of all that samples, and what they make of a run's config."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from snapvideo_jax import config as configs
from snapvideo_jax.diffusion import Sampler
from snapvideo_jax.io import media
from snapvideo_jax.io.captions import read_prompts
from snapvideo_jax.io.options import SMALL_NOISE, check_least

BATCH = 64
"""Clips that are sampled at once by default."""


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
        check_least(self, {"batch": 1, "seed": 0, "fps": 0})
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptOptions(SamplerOptions):
    """What is sampled, and the folder that it is written to.

    Attributes:
      out: the folder; it gets NUMBER.json and the files of each clip, and sheet.gif.
      prompt: captions.
      prompts: file of further captions, one a line.
      num_samples: clips of each caption; 1 or more.
      formats: of the files; some of "mp4", "gif" and "png" (lossless).
      overwrite: samples clips again that ``out`` already has.
    """

    out: str | Path
    prompt: str | Sequence[str] = ()
    prompts: str | Path | None = None
    num_samples: int = 1
    formats: Sequence[str] = ("mp4",)
    overwrite: bool = False

    def __post_init__(self):
        super().__post_init__()
        check_least(self, {"num_samples": 1})
        media.check_formats(self.formats)

    def captions(self) -> list[str]:
        """All captions, each ``num_samples`` times.

        Raises:
          ValueError: there are none, or the file cannot be read.
        """
        texts = [self.prompt] if isinstance(self.prompt, str) else list(self.prompt)
        if self.prompts:
            texts += read_prompts(Path(self.prompts))
        if not texts:
            raise ValueError(
                'There is nothing to sample; give --prompt "..." or --prompts.'
            )
        return [text for text in texts for _ in range(self.num_samples)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleOptions(PromptOptions):
    """Options of `sample.sample`: clips of one stage, of two, or of the second alone.

    Attributes:
      workdir: of the run; with ``cascade`` of the first stage.
      save_trajectory: noise levels of NUMBER-trajectory.gif and .png; 0 writes none.
      from_clip: video file to start from.
      strength: share of the sampler's steps that are taken from there, in 0..1
        (default: `inputs.STRENGTH`).
      cascade: workdir of an upsampler, the second stage.
      small_clips: folder of clips to enlarge, in place of a first stage.
      small_noise: standard deviation, in -1..1, of the noise that is added to the small
        clips.
      cascade_steps, cascade_solver, cascade_guidance: of the second stage (default: its
        config's).
      cascade_batch: of the second stage (default: ``batch``).
    """

    workdir: str | Path | None = None
    save_trajectory: int = 0
    from_clip: str | Path | None = None
    strength: float | None = None
    cascade: str | Path | None = None
    small_clips: str | Path | None = None
    small_noise: float = SMALL_NOISE
    cascade_steps: int | None = None
    cascade_solver: str | None = None
    cascade_guidance: float | None = None
    cascade_batch: int | None = None

    def __post_init__(self):
        super().__post_init__()
        least = {"save_trajectory": 0, "small_noise": 0, "cascade_batch": 1}
        check_least(self, least)
        has_strength = self.strength is not None
        has_first_stage = self.workdir or self.prompt or self.prompts or self.from_clip
        if self.small_clips and not self.cascade:
            raise ValueError("--small_clips need --cascade, the upsampler's workdir.")
        if self.small_clips and (has_first_stage or has_strength):
            raise ValueError(
                "--small_clips are enlarged as they are; leave out --workdir, prompts "
                "and --from_clip, or --small_clips."
            )
        if self.cascade and not self.small_clips and not self.workdir:
            raise ValueError(
                "--cascade is the second stage; give --workdir of a first one, or "
                "--small_clips."
            )
        if not self.cascade and not self.workdir:
            raise ValueError("--workdir is missing; give the folder of a run.")
        if has_strength and not self.from_clip:
            raise ValueError(
                f"--strength={self.strength:g} needs a clip to start from; give "
                "--from_clip FILE too."
            )
        if has_strength and not 0 <= self.strength <= 1:
            raise ValueError(
                f"--strength={self.strength:g} is not a share; use 0 to 1."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExtendOptions(PromptOptions):
    """Options of `long_video.extend`.

    Attributes:
      workdir: of the run.
      frames: of each video; 1 or more.
      rates: rising frame rates, the last that of the video (default: ``fps``, and a
        quarter of it where one clip is too short).
      overlap: frames of the clip before that a clip continues from, at the lowest rate.
      image: file of the first frame.
      known: numbers of frames, from 0, and files: of a picture, or of a video that
        gives this frame and those after it.
      reconstruction: weight of reconstruction guidance, by which frames are known.
      rule: of it, "posterior" or "paper"; see `diffusion.Reconstruction`.
      products: backward passes of it in each network call.
    """

    workdir: str | Path
    frames: int
    rates: Sequence[float] | None = None
    overlap: int = 1
    image: str | Path | None = None
    known: Sequence[tuple[int, str | Path]] = ()
    reconstruction: float = 1.0
    rule: str = "posterior"
    products: int = 2

    def __post_init__(self):
        super().__post_init__()
        check_least(self, {"frames": 1})


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchNoiseOptions(SamplerOptions):
    """Options of `noise_search.search`; those of the sampler are the upsampler's.

    Attributes:
      cascade: workdir of the upsampler.
      out: folder that is written to.
      clips: folder of files and captions.jsonl (default: the data of the run).
      count: clips that are enlarged; 1 or more.
      grid: standard deviations of the noise, in -1..1 (default: 11, evenly spaced from
        0 to the largest in training).
      score: name in `noise_search.SCORES`.
    """

    cascade: str | Path
    out: str | Path
    clips: str | Path | None = None
    count: int = 16
    grid: Sequence[float] | None = None
    score: str = "psnr"

    def __post_init__(self):
        super().__post_init__()
        check_least(self, {"count": 1})


def sampler_of(experiment: configs.Experiment, options) -> Sampler:
    """The experiment's sampler with the steps, solver and churn of options.

    Args:
      experiment: of a run.
      options: `SamplerOptions` or others with these three; None is the experiment's.
    """
    changes = {
        name: value
        for name in ("steps", "solver", "churn")
        if (value := getattr(options, name)) is not None
    }
    return dataclasses.replace(experiment.sampler, **changes)


def settings_of(
    experiment: configs.Experiment, options: SamplerOptions
) -> dict[str, Any]:
    """Settings that all requests share: seed, guidance, frame rate, resolution."""
    sheets = experiment.sheets
    return dict(
        seed=options.seed,
        guidance=sheets.guidance if options.guidance is None else options.guidance,
        fps=sheets.fps if options.fps is None else options.fps,
        resolution=resolution_of(experiment),
    )


def weights_of(options: SamplerOptions) -> str:
    """The weights that are sampled from: "ema", "raw", or a post-hoc EMA's folder."""
    return options.ema_profile or ("ema" if options.ema else "raw")


def resolution_of(experiment: configs.Experiment) -> tuple[int, int]:
    """The original resolution that samples are conditioned on."""
    asked = experiment.sheets.resolution
    return asked if any(asked) else (experiment.data.height, experiment.data.width)
