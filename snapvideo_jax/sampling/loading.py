"""A run that samples: its settings, its weights, and the model that guides it."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from snapvideo_jax import __version__
from snapvideo_jax import config as configs
from snapvideo_jax.diffusion import Sampler
from snapvideo_jax.parallel import processes
from snapvideo_jax.parallel.sharding import make_mesh
from snapvideo_jax.sampling.generator import Generator, Guide
from snapvideo_jax.sampling.guidance_options import about_guidance, guidance_of
from snapvideo_jax.sampling.options import (
    SamplerOptions,
    sampler_of,
    settings_of,
    weights_of,
)
from snapvideo_jax.text.encoder import refuse_long
from snapvideo_jax.training.checkpoints.restore import (
    abstract_sharded_state,
    restore_ema_profile,
    restore_params,
)


@dataclasses.dataclass(frozen=True)
class Setup:
    """A run with the settings of options; its weights are not loaded.

    Attributes:
      workdir: of the run.
      options: of its sampler.
      experiment: of the run, with the guidance of the options.
      sampler: steps, solver, churn.
      settings: of all requests; see `options.settings_of`.
    """

    workdir: Path
    options: SamplerOptions
    experiment: configs.Experiment
    sampler: Sampler
    settings: dict[str, Any]

    @classmethod
    def of(
        cls, workdir: str | Path, options: SamplerOptions, prompts: Sequence[str] = ()
    ) -> "Setup":
        """The setup of a workdir.

        Raises:
          ValueError: the folder holds no run, a setting is wrong, or a prompt is
            longer than the run's limit.
        """
        experiment = configs.build(configs.of_workdir(Path(workdir)))
        refuse_long(experiment.text, prompts)
        settings = settings_of(experiment, options)
        sampler = sampler_of(experiment, options)
        experiment = guidance_of(experiment, options, settings["guidance"])
        return cls(Path(workdir), options, experiment, sampler, settings)

    @property
    def clip_shape(self) -> tuple[int, int, int, int]:
        """Shape ``t h w c`` of the network's clips."""
        return clip_shape(self.experiment.model)

    def load(self) -> "LoadedRun":
        """The run with its weights and those of its guiding model."""
        options = self.options
        _, params, step, mesh = load(self.workdir, options.ema, options.ema_profile)
        guide = load_guide(self.experiment, options, mesh)
        return LoadedRun(self, params, step, mesh, guide)


@dataclasses.dataclass(frozen=True)
class LoadedRun:
    """A run that is ready to sample.

    Attributes:
      setup: its settings.
      params, step: weights of its network, and their step.
      mesh: of all devices.
      guide: the guiding model, if any.
    """

    setup: Setup
    params: Any
    step: int
    mesh: jax.sharding.Mesh
    guide: Guide | None

    def generator(self, **settings) -> Generator:
        """The compiled sampler, with further settings of `Generator`."""
        setup = self.setup
        return Generator(
            setup.experiment, setup.sampler, self.mesh, self.guide, **settings
        )

    def about(self) -> dict[str, Any]:
        """How clips are sampled, for the JSON of each of them."""
        setup = self.setup
        guidance = setup.settings["guidance"]
        return {
            **about_guidance(setup.experiment, setup.options, guidance),
            "sampler": dataclasses.asdict(setup.sampler),
            "workdir": str(setup.workdir),
            "step": self.step,
            "weights": weights_of(setup.options),
            "version": __version__,
        }


def clip_shape(model) -> tuple[int, int, int, int]:
    """Shape ``t h w c`` of a network's clips."""
    return model.frames, model.height, model.width, model.out_channels


def load(workdir: Path, ema: bool = True, profile: str | Path | None = None):
    """A run's experiment, its parameters, their step, and a mesh of all devices.

    Args:
      workdir: of the run.
      ema: loads the EMA weights of the newest checkpoint, not the raw ones.
      profile: folder of a post-hoc EMA written by `snapvideo ema`, loaded in place of
        both.

    Raises:
      ValueError: the folder holds no run, the run has no checkpoint yet, or the
        post-hoc EMA is missing or of another run.
    """
    config = configs.of_workdir(workdir)
    processes.enable_compilation_cache(workdir)
    experiment = configs.build(config)
    mesh = make_mesh(configs.MeshConfig(), batch=jax.device_count())
    if profile:
        like = abstract_sharded_state(experiment, mesh)
        params, step = restore_ema_profile(Path(profile), like.params)
    else:
        params, step = restore_params(workdir, experiment, mesh, ema)
    return experiment, params, step, mesh


def load_guide(
    experiment: configs.Experiment, options: SamplerOptions, mesh
) -> Guide | None:
    """The guiding model of --autoguide; None without it.

    Args:
      experiment: of the run that is guided.
      options: of the sampler.
      mesh: for the parameters.

    Raises:
      ValueError: there is no such run or checkpoint, or its network sees other clips
        or captions than that of ``experiment``.
    """
    if not options.autoguide:
        return None
    found = re.fullmatch(r"(.+)@(\d+)", options.autoguide)
    workdir, step = (found[1], int(found[2])) if found else (options.autoguide, None)
    file = Path(workdir) / "config.json"
    if not file.is_file():
        raise ValueError(
            f"--autoguide={options.autoguide} holds no run: {file} is missing."
        )
    theirs = configs.build(configs.from_json(file.read_text()))
    ours, others = _must_agree(experiment), _must_agree(theirs)
    for name, value in ours.items():
        if others[name] != value:
            raise ValueError(
                f"--autoguide={options.autoguide} cannot guide this run: its {name} "
                f"is {others[name]}, and here it is {value}; use a run in which they "
                "agree."
            )
    params, _ = restore_params(Path(workdir), theirs, mesh, options.ema, step)
    return Guide(theirs.model, theirs.diffusion, params)


def _must_agree(experiment: configs.Experiment) -> dict[str, Any]:
    """Properties that two networks share if they see the same clips and captions."""
    model, text = experiment.model, experiment.text
    return {
        "clip of frames, height and width": (model.frames, model.height, model.width),
        "number of channels": (model.in_channels, model.out_channels),
        "diffusion.sigma_in": experiment.diffusion.sigma_in,
        "text encoder of tokens and width": (
            type(text).__name__,
            text.tokens,
            text.width,
        ),
    }
