"""Loads a run for sampling, and the guiding model of --autoguide."""

import re
from pathlib import Path
from typing import Any

import jax

from snapvideo_jax import config as configs
from snapvideo_jax.parallel import processes
from snapvideo_jax.parallel.sharding import make_mesh
from snapvideo_jax.sampling.generator import Guide
from snapvideo_jax.training.checkpoints.restore import (
    abstract_sharded_state,
    restore_ema_profile,
    restore_params,
)


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


def load_guide(experiment: configs.Experiment, options, mesh) -> Guide | None:
    """The guiding model of --autoguide; None without it.

    Args:
      experiment: of the run that is guided.
      options: a `SamplerOptions`.
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
