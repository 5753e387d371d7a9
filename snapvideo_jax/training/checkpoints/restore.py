"""Parameters of a run, restored from a checkpoint or from a post-hoc EMA."""

from contextlib import closing
from pathlib import Path
from typing import Any

import flax.linen as nn
from orbax.checkpoint import v1 as ocp

from snapvideo_jax.parallel.sharding import state_shardings, with_shardings
from snapvideo_jax.state import abstract_state
from snapvideo_jax.training.checkpoints.checkpoints import Checkpoints
from snapvideo_jax.training.checkpoints.integrity import COMMITTED


def restore_params(workdir: Path, experiment, mesh, ema: bool, step: int | None = None):
    """The raw or EMA parameters of a checkpoint, sharded over a mesh, and its step.

    Raises:
      ValueError: as `Checkpoints` and `Checkpoints.restore_params`.
    """
    like = abstract_sharded_state(experiment, mesh)
    with closing(Checkpoints(workdir)) as checkpoints:
        return checkpoints.restore_params(like, ema, step)


def abstract_sharded_state(experiment, mesh):
    """Shapes of the state of a run, with its shardings on a mesh."""
    shapes = abstract_state(experiment)
    return with_shardings(nn.unbox(shapes), state_shardings(shapes, mesh))


def restore_ema_profile(folder: Path, like) -> tuple[Any, int]:
    """The parameters that `snapvideo ema` wrote to a folder, and their step.

    Args:
      folder: of one average.
      like: shapes and shardings of the parameters.

    Raises:
      ValueError: the folder has no average, or one of another model.
    """
    if not (folder / COMMITTED).is_file():
        raise ValueError(
            f"--ema_profile={folder} holds no average; snapvideo ema --workdir DIR "
            "--length 0.1 writes one and prints its folder."
        )
    about = ocp.checkpointables_metadata(folder.absolute()).custom_metadata
    try:
        loaded = ocp.load_checkpointables(folder.absolute(), {"params": like})
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"--ema_profile={folder} is not an average of the model in --workdir."
        ) from error
    return loaded["params"], about["step"]
