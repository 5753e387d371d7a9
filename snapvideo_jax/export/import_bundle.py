"""The verb `snapvideo import`: a run that begins with the weights of a bundle."""

import functools
import logging
from pathlib import Path

import flax.linen as nn
import jax

from snapvideo_jax import config as configs
from snapvideo_jax.export import bundle
from snapvideo_jax.io.files import write_atomically, write_json
from snapvideo_jax.parallel.sharding import MeshConfig, make_mesh, state_shardings
from snapvideo_jax.state import abstract_state, fresh_state
from snapvideo_jax.training.checkpoints.checkpoints import Checkpoints
from snapvideo_jax.training.run_folder import RunFolder

logger = logging.getLogger(__name__)


def begin(found: bundle.Bundle, workdir: Path) -> None:
    """Makes a workdir whose checkpoint of step 0 has a bundle's weights.

    All averages begin with them too; the optimizer begins anew.
    """
    experiment, count = found.experiment, jax.device_count()
    mesh = make_mesh(MeshConfig(data=1, fsdp=count), batch=count)
    places = state_shardings(abstract_state(experiment), mesh)
    fresh = functools.partial(fresh_state, experiment)
    state = jax.jit(lambda: nn.unbox(fresh()), out_shardings=places)()
    params = jax.device_put(found.params(), places.params)
    state = state.replace(
        params=params, ema=params, powers=tuple(params for _ in state.powers)
    )
    checkpoints = Checkpoints(workdir, every_steps=1)
    try:
        checkpoints.save(0, state, {}, force=True)
    finally:
        checkpoints.close()
    names = ("weights", "step", "library_version")
    about = {"bundle": found.folder.name} | {name: found.about[name] for name in names}
    folder = RunFolder(workdir)
    write_json(folder.imported, about)
    write_atomically(folder.config, configs.to_json(found.config).encode())
