"""The runs of a sweep: a config at other sizes and at several budgets of FLOPs."""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
from ml_collections import ConfigDict

from snapvideo_jax import config as configs
from snapvideo_jax.io.files import write_atomically
from snapvideo_jax.models.flops import flops_per_sample
from snapvideo_jax.scaling.validate import held_out_shapes, validation_data
from snapvideo_jax.state import abstract_state

FILE = "sweep.json"
MIN_STEPS = 20
"""Steps of the shortest run."""
WIDTHS = ("patch_width", "latent_width", "context_width")
AXES = ("width", "blocks", "latents", "patch")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """The sizes and budgets of a sweep.

    Attributes:
      out: folder of the sweep.
      budgets: training FLOPs of a run.
      width: factors of all widths.
      blocks, latents: numbers of blocks, and of latents.
      patch: sides of patches in pixels.
      validation: folder of clips that no run trains on; None, for the shapes data set
        only, generates scenes of another seed.
    """

    out: Path
    budgets: tuple[float, ...]
    width: tuple[float, ...] = ()
    blocks: tuple[float, ...] = ()
    latents: tuple[float, ...] = ()
    patch: tuple[float, ...] = ()
    validation: Path | None = None


@dataclasses.dataclass(frozen=True)
class SweepRun:
    """A run of a sweep.

    Attributes:
      name: of its folder.
      axis, value: the field that differs from the base, and its value; axis "base"
        differs in none.
      budget: requested training FLOPs.
      steps: training steps, which come closest to the budget.
      samples: in those steps.
      flops: of the model for training on one sample.
      parameters: of the network.
      config: resolved, as in JSON.
    """

    name: str
    axis: str
    value: float
    budget: float
    steps: int
    samples: int
    flops: float
    parameters: int
    config: dict[str, Any]


def generate(config: ConfigDict, options: SweepOptions) -> list[SweepRun]:
    """Generates a sweep and writes it to its folder.

    Raises:
      ValueError: as `plan_sweep`, `validation_data` and `write`, or the validation
        folder is missing.
    """
    axes = {axis: getattr(options, axis) for axis in AXES}
    runs = plan_sweep(config, axes, sorted(options.budgets))
    if options.validation:
        folder = options.validation
        validation_data(configs.build(config).data, folder)
    elif config.data.source == "shapes":
        folder = held_out_shapes(options.out / "validation")
    else:
        raise ValueError(
            "--validation is missing: a folder of clips that no run trains on."
        )
    write(options.out, runs, str(folder))
    return runs


def plan_sweep(
    base: ConfigDict, axes: Mapping[str, Sequence[float]], budgets: Sequence[float]
) -> list[SweepRun]:
    """All runs of a sweep: each axis varied alone, every size at every budget.

    Args:
      base: config of a FIT.
      axes: values by name: factors of ``width``, numbers of ``blocks``, ``latents``,
        and sides of the ``patch`` in pixels.
      budgets: of training FLOPs.

    Raises:
      ValueError: the network is not a FIT, a size is invalid, or a budget is too small
        for a size.
    """
    if base.model.name != "fit":
        raise ValueError(
            f"model.name={base.model.name!r}: sweeps vary the sizes of a FIT; use a "
            "config of 'fit'."
        )
    if not base.diffusion.images_as_videos:
        raise ValueError(
            "Sweeps do not support diffusion.images_as_videos=False; use True."
        )
    runs = []
    for axis, value, config in _variants(base, axes):
        experiment = configs.build(config)
        flops, batch = flops_per_sample(experiment), experiment.data.batch
        shapes = nn.unbox(abstract_state(experiment).params)
        parameters = sum(leaf.size for leaf in jax.tree.leaves(shapes))
        for budget in budgets:
            steps = round(budget / (flops * batch))
            if steps < MIN_STEPS:
                raise ValueError(
                    f"--budgets={budget:g} are {steps} steps of {axis}={value:g}, "
                    f"fewer than {MIN_STEPS}; use "
                    f"{MIN_STEPS * flops * batch:.2g} or more."
                )
            own = json.loads(configs.to_json(_timed(config, steps)))
            name = f"{budget:.3g}-{axis}-{value:g}"
            runs.append(
                SweepRun(
                    *(name, axis, value, budget, steps, steps * batch),
                    *(flops, parameters, own),
                )
            )
    return runs


def write(out: Path, runs: Sequence[SweepRun], validation: str) -> None:
    """Writes a sweep to its folder.

    Raises:
      ValueError: the folder has another sweep.
    """
    path = out / FILE
    sweep = {"validation": validation, "runs": [dataclasses.asdict(r) for r in runs]}
    text = json.dumps(sweep, indent=1)
    if path.is_file() and path.read_text() != text:
        raise ValueError(f"--out={out} has another sweep; use another folder.")
    write_atomically(path, text.encode())


def read(out: Path) -> tuple[list[SweepRun], str]:
    """The runs of a sweep, and the folder of its validation clips.

    Raises:
      ValueError: there is none.
    """
    try:
        sweep = json.loads((out / FILE).read_text())
        return [SweepRun(**run) for run in sweep["runs"]], sweep["validation"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"--out={out} has no sweep of snapvideo scaling generate ({error})."
        ) from error


def describe(runs: Sequence[SweepRun]) -> str:
    """A line for every run."""
    lines = [
        f"{'run':<28}{'parameters':>12}{'GFLOP a sample':>16}{'steps':>12}{'PFLOP':>12}"
    ]
    for run in runs:
        lines.append(
            f"{run.name:<28}{run.parameters:>12,}{run.flops / 1e9:>16.3f}"
            f"{run.steps:>12,}{run.flops * run.samples / 1e15:>12.3g}"
        )
    total = sum(run.flops * run.samples for run in runs)
    return "\n".join([*lines, f"{len(runs)} runs, {total / 1e15:.3g} PFLOP in all"])


def _variants(
    base: ConfigDict, axes: Mapping[str, Sequence[float]]
) -> Iterator[tuple[str, float, ConfigDict]]:
    """Configs with one axis changed, without duplicates; the base is the first."""
    yield "base", 1, base.copy_and_resolve_references()
    seen = {configs.to_json(base)}
    for axis in AXES:
        for value in axes.get(axis, ()):
            config = _changed(base.copy_and_resolve_references(), axis, value)
            if (text := configs.to_json(config)) not in seen:
                seen.add(text)
                yield axis, value, config


def _changed(config: ConfigDict, axis: str, value: float) -> ConfigDict:
    model = config.model
    if axis == "width":
        # Heads keep their width; their number changes.
        for name in WIDTHS:
            head = model.get(name.replace("_width", "_head_width"), 8)
            model[name] = max(1, round(value * model[name] / head)) * head
        return config
    if value != int(value) or value < 1:
        raise ValueError(f"--{axis}={value:g} is not a whole number of 1 or more.")
    if axis == "patch":
        # Groups keep their pixels where the patch divides them.
        sides = zip(model.group, model.patch[1:], strict=True)
        model.group = tuple(max(1, n * side // int(value)) for n, side in sides)
        model.patch = (model.patch[0], int(value), int(value))
        return config
    model[axis] = int(value)
    if axis == "blocks" and model.unroll > 1:
        model.unroll = int(value)
    return config


def _timed(config: ConfigDict, steps: int) -> ConfigDict:
    """A config that trains for ``steps``, with warm-up, EMA and saving scaled to it."""
    config = config.copy_and_resolve_references()
    optimizer, run = config.optimizer, config.run
    optimizer.steps, optimizer.warmup_steps = steps, max(steps // 50, 1)
    optimizer.ema_half_life = min(float(optimizer.ema_half_life), steps / 20)
    config.sheets.every_steps = 0
    run.update(
        log_every_steps=max(min(run.log_every_steps, steps // 10), 1),
        checkpoint_every_steps=min(run.checkpoint_every_steps, steps),
        keep=1,
    )
    return config
