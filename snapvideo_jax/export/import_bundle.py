"""`import_bundle`: begins a run with the weights of a bundle."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import flax.linen as nn
import jax

from snapvideo_jax import config as configs
from snapvideo_jax.export import bundle
from snapvideo_jax.io.files import check_empty, write_atomically, write_json
from snapvideo_jax.parallel.sharding import MeshConfig, make_mesh, state_shardings
from snapvideo_jax.state import abstract_state, fresh_state
from snapvideo_jax.training.checkpoints.checkpoints import Checkpoints
from snapvideo_jax.training.run_folder import RunFolder


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """Options of `import_bundle`.

    Attributes:
      bundle: folder of `export`.
      workdir: of the new run, empty or new.
      overrides: of the bundle's config, each ``--config.a.b=value``.
    """

    bundle: str | Path
    workdir: str | Path
    overrides: Sequence[str] = ()


def import_bundle(options: ImportOptions) -> None:
    """Writes a workdir whose checkpoint of step 0 has the weights of a bundle.

    All EMAs start with the same weights; the state of the optimizer is new.

    Raises:
      ValueError: the workdir is not empty, or as `bundle.read`.
    """
    workdir = Path(options.workdir)
    check_empty(workdir, "--workdir")
    found = bundle.read(Path(options.bundle), options.overrides)
    experiment, count = found.experiment, jax.device_count()
    mesh = make_mesh(MeshConfig(data=1, fsdp=count), batch=count)
    shardings = state_shardings(abstract_state(experiment), mesh)
    fresh = functools.partial(fresh_state, experiment)
    state = jax.jit(lambda: nn.unbox(fresh()), out_shardings=shardings)()
    params = jax.device_put(found.params(), shardings.params)
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
