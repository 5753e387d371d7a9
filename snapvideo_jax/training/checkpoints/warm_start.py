"""Weights of one network put into a larger one: an upsampler begins as a first stage.

Every array of the source goes to the one of the same name:

    the same shape           copied
    a patch embedding        input channels that the source lacks are zero, so that at
                             the start nothing is seen through them [C]
    a table of positions     resized: between patches by place in the picture [C]
    only in the target       as training begins with it, where it is of an input that
                             the source does not have

Anything else does not fit. [P] Sec. 3.5: the upsampler starts from the first stage.
"""

import dataclasses
import logging
import re
from pathlib import Path
from typing import Any

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


@dataclasses.dataclass(frozen=True)
class Transplant:
    """What became of the arrays of a network, by name.

    Attributes:
      copied: as they were.
      widened: with more input channels, which are zero.
      resized: tables of positions.
      new: as training begins with them.
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


def plan_transplant(source, target, theirs, ours) -> Transplant:
    """What a transplant would do.

    Args:
      source, target: the networks.
      theirs, ours: shapes of their parameters, by name.

    Raises:
      ValueError: the source does not fit; names the first arrays that do not.
    """
    found = {"copied": [], "widened": [], "resized": [], "new": []}
    wrong = [f"{name} has no place here" for name in theirs.keys() - ours.keys()]
    for name, leaf in ours.items():
        if name not in theirs:
            kind = "new" if name.startswith(MAY_BE_NEW) else None
            said = f"{name} is missing"
        elif theirs[name].shape == leaf.shape and not _is_moved(name, source, target):
            kind = "copied"
        elif name.startswith(POSITIONS):
            kind = "resized" if _same_width(theirs[name], leaf) else None
            said = _shapes(name, theirs[name], leaf)
        elif name == EMBEDDING and _widens(source, target, theirs[name], leaf):
            kind = "widened"
        else:
            kind, said = None, _shapes(name, theirs[name], leaf)
        if kind:
            found[kind].append(name)
        else:
            wrong.append(said)
    if wrong:
        more = f", and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise ValueError(
            f"does not fit this network: {', '.join(sorted(wrong)[:5])}{more}; use a "
            "first stage of the same widths, latents and blocks."
        )
    return Transplant(**{kind: tuple(names) for kind, names in found.items()})


def _shapes(name: str, theirs, ours) -> str:
    return f"{name} is {theirs.shape}, and here {ours.shape}"


def _same_width(theirs, ours) -> bool:
    return theirs.shape[-1] == ours.shape[-1]


def _is_moved(name: str, source, target) -> bool:
    """Whether a table of equally many places is of another grid."""
    if not name.startswith(POSITIONS):
        return False
    fields = ("frames", "height", "width", "pad_height", "patch", "group")
    return any(getattr(source, each) != getattr(target, each) for each in fields)


def _widens(source, target, theirs, ours) -> bool:
    return (
        source.patch == target.patch
        and source.in_channels < target.in_channels
        and _same_width(theirs, ours)
    )


def transplant_params(report: Transplant, source, target, theirs, fresh):
    """The parameters of a target, by name.

    Args:
      report: of `plan_transplant`.
      source, target: the networks.
      theirs: the source's parameters, by name.
      fresh: what the target would begin with, by name.
    """
    result = {name: theirs[name] for name in report.copied}
    result |= {name: fresh[name] for name in report.new}
    for name in report.widened:
        result[name] = widen_patch_embedding(
            theirs[name], source.in_channels, target.in_channels
        )
    for name in (*report.resized, *report.new):
        if name.startswith(POSITIONS):
            table = theirs.get(name, theirs[POSITIONS])
            result[name] = resize_positions(table, source, _grid_of(name, target))
    return {name: result[name].astype(leaf.dtype) for name, leaf in fresh.items()}


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


# --- A run that begins so ------------------------------------------------------------


def initial_state(experiment: Experiment, mesh, places, workdir: Path | None = None):
    """The state that a run begins with: fresh, or with weights of ``run.init_from``.

    Args:
      experiment: of the run.
      mesh: of the run.
      places: shardings of the state.
      workdir: where ``init_from.json`` tells what was done; None tells it nowhere.

    Raises:
      ValueError: the run to begin from is not there, or does not fit; before anything
        is compiled.
    """
    where = experiment.run.init_from
    if not where:
        return jax.jit(
            lambda: nn.unbox(fresh_state(experiment)), out_shardings=places
        )()
    first, source, step = open_source(where)
    report = check_source(experiment, first)
    params, step = restore_params(source, first, mesh, True, step)
    logger.info("Beginning from %s, step %d: %s.", source, step, report)
    if workdir and jax.process_index() == 0:
        about = {"init_from": where, "step": step} | dataclasses.asdict(report)
        write_json(workdir / "init_from.json", about)

    def state(params):
        fresh = nn.unbox(fresh_state(experiment))
        structure = jax.tree.structure(fresh.params)
        names = named_leaves(fresh.params)
        moved = transplant_params(
            report, first.model, experiment.model, named_leaves(params), names
        )
        params = structure.unflatten([moved[name] for name in names])
        again = tuple(jax.tree.map(jnp.copy, params) for _ in fresh.powers)
        ema = jax.tree.map(jnp.copy, params)
        return fresh.replace(params=params, ema=ema, powers=again)

    return jax.jit(state, out_shardings=places)(params)


def check_source(experiment: Experiment, first: Experiment) -> Transplant:
    """What becomes of the arrays of a run that begins from another.

    Raises:
      ValueError: it cannot.
    """
    where = experiment.run.init_from
    kinds = type(first.model).__name__, type(experiment.model).__name__
    if kinds != ("FIT", "FIT"):
        raise ValueError(
            f"run.init_from={where} is a {kinds[0]} and this network a {kinds[1]}; "
            "weights go from a FIT to a FIT only."
        )
    theirs, ours = (
        named_leaves(nn.unbox(abstract_state(each)).params)
        for each in (first, experiment)
    )
    try:
        return plan_transplant(first.model, experiment.model, theirs, ours)
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
