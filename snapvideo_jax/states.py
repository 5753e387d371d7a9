"""The state of a run: its shapes, where they lie, and what checkpoints hold of it."""

import functools
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from orbax.checkpoint import v1 as ocp

from snapvideo_jax import config as configs
from snapvideo_jax.checkpoint import Checkpoints
from snapvideo_jax.manifest import COMMITTED
from snapvideo_jax.sharding import placed, state_shardings
from snapvideo_jax.step import init_state


def restored(workdir: Path, experiment, mesh, ema: bool, step: int | None = None):
    """Parameters of a workdir's checkpoint on a mesh, and its step."""
    like = placed_state(experiment, mesh)
    checkpoints = Checkpoints(workdir)
    try:
        return checkpoints.restore_params(like, ema, step)
    finally:
        checkpoints.close()


def placed_state(experiment, mesh):
    """Shapes of a state, with their places on a mesh."""
    shapes = abstract_state(experiment)
    return placed(nn.unbox(shapes), state_shardings(shapes, mesh))


def profile_of(folder: Path, like) -> tuple[Any, int]:
    """The parameters that `snapvideo ema` wrote to a folder, and their step.

    Args:
      folder: of one average.
      like: shapes and places of the parameters.

    Raises:
      ValueError: no average lies there, or one of another model does.
    """
    if not (folder / COMMITTED).is_file():
        raise ValueError(
            f"--ema_profile={folder} holds no average; snapvideo ema --workdir DIR "
            "--length 0.1 makes one and prints its folder."
        )
    about = ocp.checkpointables_metadata(folder.absolute()).custom_metadata
    try:
        loaded = ocp.load_checkpointables(folder.absolute(), {"params": like})
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"--ema_profile={folder} is not of the model of --workdir."
        ) from error
    return loaded["params"], about["step"]


def abstract_state(experiment: "configs.Experiment"):
    """Shapes of a state of an experiment, its parameters with their logical axes."""
    return jax.eval_shape(functools.partial(fresh_state, experiment))


def fresh_state(experiment: "configs.Experiment"):
    """The state that an experiment begins with, likewise boxed; to be jitted."""
    tokens, width = experiment.text.tokens, experiment.text.width
    batch = {
        "text": jnp.zeros((1, tokens, width)),
        "text_mask": jnp.ones((1, tokens), bool),
        "frame_interval": jnp.zeros(1),
        "resolution": jnp.ones((1, 2)),
        "sample": jnp.zeros(1, jnp.uint32),
    }
    key = jax.random.fold_in(jax.random.key(experiment.seed), 0)
    return init_state(experiment.model, experiment.optimizer, batch, key)
