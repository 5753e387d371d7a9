"""An experiment: the objects of a config, built and checked.

A config file's ``get_config(arg)`` returns a ConfigDict with a section for every part.
Defaults are those of the dataclass or linen module that a section configures:
`sections.section` turns it into a ConfigDict of all its fields, `build` turns the
sections back into the objects, once, and checks everything that can be checked before a
device is used.
"""

import dataclasses
import math

from ml_collections import ConfigDict

from snapvideo_jax.config.run import Run
from snapvideo_jax.config.sections import DERIVED, construct, unknown
from snapvideo_jax.data import DataConfig
from snapvideo_jax.diffusion import EDM, Guidance, Sampler
from snapvideo_jax.models import MODELS, Network
from snapvideo_jax.optim import Optimizer
from snapvideo_jax.parallel.sharding import MeshConfig
from snapvideo_jax.step import Training
from snapvideo_jax.text import TextEncoder
from snapvideo_jax.text.config import Text


@dataclasses.dataclass(frozen=True)
class Sheets:
    """Sample sheets, made during training with the same prompts and noise.

    Attributes:
      prompts: captions that are sampled.
      guidance: weight ``g`` of classifier-free guidance, 0 for none (the weight of
        other papers is 1 + g); also the default of `snapvideo sample`. How it is
        applied is the section ``guidance``.
      fps: frame rate that samples are conditioned on; 0 for images.
      resolution: height and width of the original that samples are conditioned on;
        (0, 0) for the size of the model's clips.
      every_steps: steps between sheets; 0 for none.
      scale: factor by which pixels are enlarged.
    """

    prompts: tuple[str, ...] = ()
    guidance: float = 0.0
    fps: float = 24.0
    resolution: tuple[int, int] = (0, 0)
    every_steps: int = 0
    scale: int = 1


SECTIONS = {
    "data": DataConfig,
    "text": Text,
    "diffusion": EDM,
    "optimizer": Optimizer,
    "training": Training,
    "mesh": MeshConfig,
    "sampler": Sampler,
    "guidance": Guidance,
    "sheets": Sheets,
    "run": Run,
}
OPTIONAL = ("guidance",)
"""Sections that configs of older runs lack; their defaults are used."""


@dataclasses.dataclass(frozen=True)
class Experiment:
    """The objects that a config describes."""

    seed: int
    model: Network
    data: DataConfig
    text: TextEncoder
    diffusion: EDM
    optimizer: Optimizer
    training: Training
    mesh: MeshConfig
    sampler: Sampler
    guidance: Guidance
    sheets: Sheets
    run: Run


def build(config: ConfigDict) -> Experiment:
    """Constructs and checks every part of an experiment.

    Raises:
      ValueError: names the field, its value, and valid ones.
    """
    expected = {"seed", "model", *SECTIONS}
    for name in config:
        if name not in expected:
            raise ValueError(unknown(name, expected, "config"))
    for name in sorted(expected - set(config) - set(OPTIONAL)):
        raise ValueError(f"config.{name} is missing.")
    parts = {
        name: _construct(kind, config.get(name, ConfigDict()), name)
        for name, kind in SECTIONS.items()
        if name != "training"
    }
    data = parts["data"]
    common = math.gcd(data.videos_per_batch, data.images_per_batch)
    videos, images = data.videos_per_batch // common, data.images_per_batch // common
    training = _construct(
        Training, config.training, "training", videos=videos, images=images
    )
    name = config.model.get("name", None)
    if name not in MODELS:
        raise ValueError(f"model.name={name!r} is unknown; use {sorted(MODELS)}.")
    fields = {key: value for key, value in config.model.items() if key != "name"}
    size = dict(frames=data.frames, height=data.height, width=data.width)
    if data.buckets:
        if not hasattr(MODELS[name], "further_sizes"):
            raise ValueError(
                f"data.buckets={data.buckets}, but model.name={name!r} takes clips of "
                "one size; use 'fit', or data.buckets=()."
            )
        size["further_sizes"] = data.buckets
    model = _construct(MODELS[name], ConfigDict(fields), "model", **size)
    parts["text"] = parts["text"].encoder()
    experiment = Experiment(seed=config.seed, model=model, training=training, **parts)
    _check(experiment)
    return experiment


def _check(experiment: Experiment) -> None:
    """Checks that need several parts."""
    if experiment.seed < 0:
        raise ValueError(f"seed={experiment.seed} is below 0; use 0 or more.")
    experiment.model.validate()
    _check_latents(experiment)
    training, batch = experiment.training, experiment.data.batch
    period = training.self_conditioning_period
    unit = training.videos + training.images
    if period % unit:
        raise ValueError(
            f"training.self_conditioning_period={period} is not a multiple of {unit}, "
            f"the number of videos and images that alternate in a batch."
        )
    if batch % (period * training.microbatches):
        raise ValueError(
            f"The batch of {batch} (data.videos_per_batch + data.images_per_batch) is "
            f"not a multiple of training.self_conditioning_period={period} times "
            f"training.microbatches={training.microbatches}."
        )
    _check_low_resolution(experiment)
    if experiment.diffusion.images_as_videos:
        return
    data = experiment.data
    for name in ("videos_per_batch", "images_per_batch"):
        if getattr(data, name) % (period * training.microbatches):
            raise ValueError(
                f"data.{name}={getattr(data, name)} is not a multiple of "
                f"training.self_conditioning_period={period} times "
                f"training.microbatches={training.microbatches}, as "
                "diffusion.images_as_videos=False requires."
            )


def _check_latents(experiment: Experiment) -> None:
    """Checks that settings which need latents have a network with latents."""
    training, mesh = experiment.training, experiment.mesh
    if training.self_conditioning and not experiment.model.self_conditions:
        raise ValueError(
            f"training.self_conditioning={training.self_conditioning}: this network "
            "has no latents to be conditioned on; use 0."
        )
    if mesh.context > 1 and experiment.model.resource_estimate().parts == 1:
        raise ValueError(
            f"mesh.context={mesh.context}: this network cannot divide a clip over "
            "devices; use 1."
        )


def _check_low_resolution(experiment: Experiment) -> None:
    """Checks that upsamplers, and only they, have low-resolution conditioning."""
    model, data = experiment.model, experiment.data
    height, width = experiment.training.low_resolution
    given = f"training.low_resolution={(height, width)}"
    if model.is_upsampler != bool(height and width):
        raise ValueError(
            f"{given} and model.in_channels={model.in_channels} do not go together; "
            "an upsampler has a size to enlarge and 6 channels, a first stage has "
            "(0, 0) and 3."
        )
    if model.is_upsampler and data.buckets:
        raise ValueError(
            f"data.buckets={data.buckets}: an upsampler takes clips of one size; use "
            "data.buckets=()."
        )
    if model.is_upsampler and (data.height % height or data.width % width):
        raise ValueError(
            f"{given} does not divide data.height={data.height} and "
            f"data.width={data.width}; use a size that does."
        )
    if model.is_upsampler and experiment.sheets.every_steps:
        raise ValueError(
            f"sheets.every_steps={experiment.sheets.every_steps}: an upsampler cannot "
            "make sheets from prompts alone; use 0."
        )


def _construct(kind: type, config: ConfigDict, where: str, **derived):
    return construct(kind, config, where, DERIVED.get(kind, ()), **derived)
