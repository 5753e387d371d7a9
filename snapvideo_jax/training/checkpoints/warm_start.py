"""Warm start: weights of one network in a larger one, a first stage in an upsampler.

Each array of the target comes from the source's array of the same name:

    same shape               copied
    patch embedding          input channels that the source lacks are zero, so that at
                             the start they have no effect [C]
    position table           interpolated between patches by place in the picture [C]
    only in the target       initialized as in training, if it belongs to an input that
                             the source does not have

Anything else does not fit. [P] Sec. 3.5: the upsampler starts from the first stage.
"""

import dataclasses
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float

from snapvideo_jax import config as configs
from snapvideo_jax.config import Experiment
from snapvideo_jax.io.files import write_json
from snapvideo_jax.models.layers import patchify, unpatchify
from snapvideo_jax.state import abstract_state, fresh_state
from snapvideo_jax.training.checkpoints.restore import restore_params

logger = logging.getLogger(__name__)

POSITIONS = "patch_position"
EMBEDDING = "patch_embed/kernel"
MAY_BE_NEW = ("context/low_resolution_noise_", POSITIONS)
"""What a target may have that its source lacks."""


class Weights(NamedTuple):
    """A network and its parameters, or their shapes, by name."""

    network: Any
    arrays: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Transplant:
    """Where each array of a target network comes from, by name.

    Attributes:
      copied: unchanged from the source.
      widened: from the source, with further input channels, which are zero.
      resized: position tables, interpolated from the source's.
      new: initialized, as the source has no such array.
    """

    copied: tuple[str, ...]
    widened: tuple[str, ...]
    resized: tuple[str, ...]
    new: tuple[str, ...]

    def __str__(self) -> str:
        parts = [f"{len(self.copied)} arrays copied"]
        for name in ("widened", "resized", "new"):
            if found := getattr(self, name):
                parts.append(f"{name}: {', '.join(found)}")
        return "; ".join(parts)

    @classmethod
    def plan(cls, source: Weights, target: Weights) -> "Transplant":
        """How the source's arrays become the target's; only shapes are used.

        Raises:
          ValueError: the source does not fit; names the first arrays that do not.
        """
        found = {field.name: [] for field in dataclasses.fields(cls)}
        theirs, ours = source.arrays, target.arrays
        wrong = [f"{name} has no place here" for name in theirs.keys() - ours.keys()]
        for name, leaf in ours.items():
            if origin := _origin(name, source, target):
                found[origin].append(name)
            elif name in theirs:
                shape = theirs[name].shape
                wrong.append(f"{name} is {shape}, and here {leaf.shape}")
            else:
                wrong.append(f"{name} is missing")
        if wrong:
            more = f", and {len(wrong) - 5} more" if len(wrong) > 5 else ""
            raise ValueError(
                f"does not fit this network: {', '.join(sorted(wrong)[:5])}{more}; use "
                "a first stage of the same widths, latents and blocks."
            )
        return cls(**{origin: tuple(names) for origin, names in found.items()})

    def apply(self, source: Weights, target: Weights) -> dict[str, Array]:
        """The target's parameters after the transplant, by name.

        Args:
          source: network and parameters.
          target: network and its initial parameters.
        """
        theirs, fresh = source.arrays, target.arrays
        result = {name: theirs[name] for name in self.copied}
        result |= {name: fresh[name] for name in self.new}
        channels = source.network.in_channels, target.network.in_channels
        for name in self.widened:
            result[name] = widen_patch_embedding(theirs[name], *channels)
        for name in (*self.resized, *self.new):
            if name.startswith(POSITIONS):
                table = theirs.get(name, theirs[POSITIONS])
                grid = _grid_of(name, target.network)
                result[name] = resize_positions(table, source.network, grid)
        return {name: result[name].astype(leaf.dtype) for name, leaf in fresh.items()}


def _origin(name: str, source: Weights, target: Weights) -> str | None:
    """The field of `Transplant` that an array of the target belongs to."""
    theirs, ours = source.arrays.get(name), target.arrays[name]
    if theirs is None:
        return "new" if name.startswith(MAY_BE_NEW) else None
    same_width = theirs.shape[-1:] == ours.shape[-1:]
    is_table = name.startswith(POSITIONS)
    same_grid = all(
        getattr(source.network, field) == getattr(target.network, field)
        for field in ("frames", "height", "width", "pad_height", "patch", "group")
    )
    if theirs.shape == ours.shape and (same_grid or not is_table):
        return "copied"
    if is_table:
        return "resized" if same_width else None
    more = source.network.in_channels < target.network.in_channels
    same_patch = source.network.patch == target.network.patch
    if name == EMBEDDING and same_patch and more and same_width:
        return "widened"
    return None


def widen_patch_embedding(
    kernel: Float[Array, "i o"], before: int, after: int
) -> Float[Array, "j o"]:
    """The kernel of a patch embedding for more channels; the new ones are zero."""
    kernel = rearrange(kernel, "(p c) o -> p c o", c=before)
    kernel = jnp.pad(kernel, ((0, 0), (0, after - before), (0, 0)))
    return rearrange(kernel, "p c o -> (p c) o")


def resize_positions(table: Float[Array, "n d"], source, target) -> Float[Array, "m d"]:
    """A table of positions for another grid: linear between the centres of patches.

    A patch takes what lies at its place in the picture, padding left out; frames go by
    their number, and those beyond the source's take its last.
    """
    rows = source.padded_height // source.patch[1]
    frames = source.frames // source.patch[0]
    grid = rearrange(table, "(g p) d -> 1 g p d", g=source.groups)
    grid = unpatchify(grid, (1, 1, 1), source.group, frames, rows)[0]
    same = np.minimum(np.arange(target.frames // target.patch[0]), frames - 1.0)
    down = _places(
        (source.height, source.pad_height[0], source.patch[1], rows),
        (target.height, target.pad_height[0], target.patch[1]),
        target.padded_height // target.patch[1],
    )
    across = _places(
        (source.width, 0, source.patch[2], source.columns),
        (target.width, 0, target.patch[2]),
        target.columns,
    )
    weights = (
        _linear(same, frames),
        _linear(down, rows),
        _linear(across, source.columns),
    )
    grid = jnp.einsum("thwd,Tt,Hh,Ww->THWd", grid, *weights)
    moved = patchify(grid[None], (1, 1, 1), target.group)
    return rearrange(moved, "1 g p d -> (g p) d")


def _places(theirs, ours, count: int) -> np.ndarray:
    """Where the patches of a target lie among those of a source, along one axis.

    Args:
      theirs: pixels, padding before them, pixels of a patch, and patches.
      ours: the first three.
      count: patches of the target.
    """
    pixels, before, patch, patches = theirs
    size, pad, step = ours
    shares = ((np.arange(count) + 0.5) * step - pad) / size
    places = (shares * pixels + before) / patch - 0.5
    return np.clip(places, 0, patches - 1)


def _linear(places: np.ndarray, size: int) -> Float[Array, "m n"]:
    """Weights of ``size`` values in each of ``places`` between them."""
    apart = np.abs(places[:, None] - np.arange(size)[None])
    return jnp.asarray(np.maximum(0, 1 - apart), jnp.float32)


def _grid_of(name: str, network):
    """The network of the clips that a table of positions is for."""
    size = re.fullmatch(rf"{POSITIONS}_(\d+)x(\d+)", name)
    if size:
        return network.like(int(size[1]), int(size[2]))
    return network.grids[0]


# --- A run that starts from another ---------------------------------------------------


def initial_state(experiment: Experiment, mesh, shardings, workdir: Path | None = None):
    """The state of a new run: initialized, or with the weights of ``run.init_from``.

    Args:
      experiment, mesh: of the run.
      shardings: of the state.
      workdir: in which ``init_from.json`` is written; None to write nothing.

    Raises:
      ValueError: the source run does not exist or does not fit; before anything is
        compiled.
    """
    where = experiment.run.init_from
    if not where:
        return jax.jit(
            lambda: nn.unbox(fresh_state(experiment)), out_shardings=shardings
        )()
    first, source, step = open_source(where)
    transplant = check_source(experiment, first)
    params, step = restore_params(source, first, mesh, True, step)
    logger.info("Starting from %s, step %d: %s.", source, step, transplant)
    if workdir and jax.process_index() == 0:
        about = {"init_from": where, "step": step} | dataclasses.asdict(transplant)
        write_json(workdir / "init_from.json", about)

    def state(params):
        fresh = nn.unbox(fresh_state(experiment))
        ours = named_leaves(fresh.params)
        moved = transplant.apply(
            Weights(first.model, named_leaves(params)), Weights(experiment.model, ours)
        )
        structure = jax.tree.structure(fresh.params)
        params = structure.unflatten([moved[name] for name in ours])
        powers = tuple(jax.tree.map(jnp.copy, params) for _ in fresh.powers)
        ema = jax.tree.map(jnp.copy, params)
        return fresh.replace(params=params, ema=ema, powers=powers)

    return jax.jit(state, out_shardings=shardings)(params)


def check_source(experiment: Experiment, first: Experiment) -> Transplant:
    """The transplant of a run that starts from the weights of run ``first``.

    Raises:
      ValueError: the weights do not fit.
    """
    where = experiment.run.init_from
    kinds = type(first.model).__name__, type(experiment.model).__name__
    if kinds != ("FIT", "FIT"):
        raise ValueError(
            f"run.init_from={where} is a {kinds[0]} and this network a {kinds[1]}; "
            "weights go from a FIT to a FIT only."
        )
    source, target = (
        Weights(each.model, named_leaves(nn.unbox(abstract_state(each)).params))
        for each in (first, experiment)
    )
    try:
        return Transplant.plan(source, target)
    except ValueError as error:
        raise ValueError(f"run.init_from={where} {error}") from error


def open_source(where: str) -> tuple[Experiment, Path, int | None]:
    """The experiment, workdir and step of ``WORKDIR[@STEP]``.

    Raises:
      ValueError: there is no run.
    """
    found = re.fullmatch(r"(.+)@(\d+)", where)
    workdir, step = (found[1], int(found[2])) if found else (where, None)
    file = Path(workdir) / "config.json"
    if not file.is_file():
        raise ValueError(f"run.init_from={where} holds no run: {file} is missing.")
    return configs.build(configs.from_json(file.read_text())), Path(workdir), step


def named_leaves(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their path, in order."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {"/".join(str(key.key) for key in path): leaf for path, leaf in leaves}
