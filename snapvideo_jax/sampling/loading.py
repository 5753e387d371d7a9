"""Loads a run for sampling: experiment, mesh and parameters."""

from pathlib import Path

import jax

from snapvideo_jax import config as configs
from snapvideo_jax.parallel import processes
from snapvideo_jax.parallel.sharding import make_mesh
from snapvideo_jax.sampling.generator import Guide
from snapvideo_jax.sampling.guidance_options import guide_of
from snapvideo_jax.training.checkpoints.restore import (
    abstract_sharded_state,
    restore_ema_profile,
    restore_params,
)


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
    """The guiding model that `SamplerOptions` asks for, if it does.

    Raises:
      ValueError: as `guide_of`, or the checkpoint is not there.
    """
    if (found := guide_of(experiment, options)) is None:
        return None
    theirs, workdir, step = found
    params, _ = restore_params(workdir, theirs, mesh, options.ema, step)
    return Guide(theirs.model, theirs.diffusion, params)
