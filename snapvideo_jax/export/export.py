"""The verb `snapvideo export`: a run's model as a folder to take away."""

import argparse
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from snapvideo_jax import config as configs
from snapvideo_jax.diffusion import Sampler
from snapvideo_jax.export import bundle, programs
from snapvideo_jax.export.model_card import CARD, model_card
from snapvideo_jax.io.files import write_atomically
from snapvideo_jax.io.options import SMALL_NOISE, check_least
from snapvideo_jax.parallel.sharding import MeshConfig, make_mesh
from snapvideo_jax.sampling import options
from snapvideo_jax.sampling.cascade import check_stages, upsampler_of
from snapvideo_jax.training.checkpoints.restore import (
    abstract_sharded_state,
    restore_ema_profile,
    restore_params,
)

FORMATS = ("bundle", "stablehlo", "orbax")
FEW = 4
"""Prompts of the config whose embeddings are kept where none are asked for."""


def _export_stages(
    workdir: Path, upsampler: Path, out: Path, arguments: argparse.Namespace
) -> None:
    """Exports both runs; the second for captions and frame-rate of the first."""
    second = upsampler_of(upsampler)
    first = configs.build(configs.of_workdir(workdir))
    check_stages(first, second, workdir, upsampler)
    steps, solver = arguments.cascade_steps, arguments.cascade_solver
    changed = {"steps": steps, "solver": solver, "churn": None}
    own = argparse.Namespace(**vars(arguments) | changed)
    options.sampler_of(second, own)  # what is wrong is told before files are written
    _export_run(workdir, out / "base", arguments)
    _export_run(upsampler, out / "upsampler", own, first.sheets)
    bundle.write_index(out, ["base", "upsampler"])


def _export_run(
    workdir: Path,
    out: Path,
    arguments: argparse.Namespace,
    first: configs.Sheets | None = None,
) -> None:
    """Loads a run and exports it; ``first`` are the sheets of its first stage."""
    experiment, params, step = load(workdir, arguments.weights)
    if first:
        told = {"prompts": first.prompts, "fps": first.fps}
        sheets = dataclasses.replace(experiment.sheets, **told)
        experiment = dataclasses.replace(experiment, sheets=sheets)
    sampler = options.sampler_of(experiment, arguments)
    about = {
        "formats": list(arguments.formats),
        "weights": _named(arguments.weights, workdir),
        "step": step,
        "dtype": arguments.dtype,
    }
    export(experiment, params, workdir, out, about, arguments, sampler)


def check(arguments: argparse.Namespace) -> None:
    """Refuses options before anything is read.

    Raises:
      ValueError: names the first that makes no sense.
    """
    check_least(arguments, {"shard_gb": 0, "steps": 1, "cascade_steps": 1})
    for option, values, known in (
        ("--format", arguments.formats, FORMATS),
        ("--platforms", arguments.platforms, programs.PLATFORMS),
    ):
        for value in values:
            if value not in known:
                raise ValueError(
                    f"{option}={value} is unknown; use some of {', '.join(known)}."
                )
    for name in ("cascade_steps", "cascade_solver"):
        if getattr(arguments, name) is not None and not arguments.cascade:
            raise ValueError(
                f"--{name} is of the second stage; give --cascade too, or use "
                f"--{name.removeprefix('cascade_')}."
            )
    if arguments.cascade and arguments.weights not in ("raw", "ema"):
        raise ValueError(
            f"--weights={arguments.weights} is of one run; use raw or ema with "
            "--cascade, or export the two runs one by one."
        )
    bundle.check_out(Path(arguments.out))


def load(workdir: Path, weights: str, step: int | None = None):
    """The experiment of a run, its parameters as NumPy arrays, and their step.

    Args:
      workdir: of the run.
      weights: "raw", "ema", or the folder of an average that `snapvideo ema` made.
      step: of the checkpoint; None for the newest.

    Raises:
      ValueError: there is no run, no such checkpoint of it, or no such average.
    """
    experiment = configs.build(configs.of_workdir(workdir))
    count = jax.device_count()
    mesh = make_mesh(MeshConfig(data=1, fsdp=count), batch=count)
    if weights in ("raw", "ema"):
        is_ema = weights == "ema"
        params, found = restore_params(workdir, experiment, mesh, is_ema, step)
    else:
        like = abstract_sharded_state(experiment, mesh)
        params, found = restore_ema_profile(Path(weights), like.params)
    return experiment, jax.device_get(params), found


def export(
    experiment: "configs.Experiment",
    params: Any,
    workdir: Path,
    out: Path,
    about: Mapping[str, Any],
    arguments: argparse.Namespace,
    sampler: Sampler,
) -> None:
    """Writes what the command line asks for; config.json last.

    Args:
      experiment, params: of the run, as from `load`.
      workdir: of the run.
      out: an empty folder, or none yet.
      about: what config.json tells of the weights.
      arguments: of the command line.
      sampler: of the exported sampler.
    """
    config = configs.of_workdir(workdir)
    dtype = bundle.DTYPES[about["dtype"]]
    leaves = {
        name: np.asarray(leaf).astype(dtype)
        for name, leaf in flatten_dict(params, sep="/").items()
    }
    out.mkdir(parents=True, exist_ok=True)
    if {"bundle", "stablehlo"} & set(about["formats"]):
        bundle.write_weights(out, leaves, round(arguments.shard_gb * 1e9))
    if "orbax" in about["formats"]:
        bundle.write_orbax(out, unflatten_dict(leaves, sep="/"))
    prompts = list(arguments.prompt or ())
    if not prompts and not config.text.path:  # the stand-in, which costs nothing
        prompts = list(experiment.sheets.prompts[:FEW])
    if prompts:
        bundle.write_tensors(out / bundle.INPUTS, _inputs(experiment, prompts))
    if "stablehlo" in about["formats"]:
        made = programs.programs_of(experiment, sampler)
        steps = {name: getattr(sampler, name) for name in programs.SAMPLER}
        programs.write(out, made, leaves, arguments.platforms, sampler=steps)
    told = {**about, "config": config.to_dict()}
    count = sum(leaf.size for leaf in leaves.values())
    write_atomically(out / CARD, model_card(experiment, workdir, told, count).encode())
    bundle.write_config(out, config, leaves, **about, prompts=prompts)


def _inputs(experiment, prompts: list[str]) -> dict[str, np.ndarray]:
    """Inputs of the sampler for some captions, as `snapvideo sample` would give them.

    An upsampler's lack the small clip, which is for the first stage to make.

    Raises:
      ValueError: a caption cannot be embedded.
    """
    count = len(prompts)
    mesh = make_mesh(MeshConfig(), batch=count, devices=jax.devices()[:1])

    def embedded(captions):
        experiment.text.check(captions)
        text, mask = experiment.text.encode(captions)
        text = experiment.text.on_devices(mesh)(text, mask)
        return {"text": np.asarray(text, np.float32), "text_mask": mask}

    sheets = experiment.sheets
    interval = 1 / sheets.fps if sheets.fps else 0.0
    inputs = embedded(prompts) | {
        "frame_interval": np.full(count, interval, np.float32),
        "resolution": np.full(
            (count, 2), options.resolution_of(experiment), np.float32
        ),
        "numbers": np.arange(count, dtype=np.uint32),
        "seed": np.zeros((), np.uint32),
        "guidance": np.asarray(sheets.guidance, np.float32),
    }
    if experiment.model.is_upsampler:
        most = experiment.training.low_resolution_noise
        inputs["small_noise"] = np.asarray(min(SMALL_NOISE, most), np.float32)
    if negative := experiment.guidance.negative_prompt:
        for name, value in embedded([negative]).items():
            inputs[f"negative_{name}"] = np.repeat(value, count, axis=0)
    return inputs


def _named(weights: str, workdir: Path) -> str:
    """The weights as config.json tells them: a folder from the workdir on."""
    path, root = Path(weights).resolve(), workdir.resolve()
    if weights in ("raw", "ema"):
        return weights
    return path.relative_to(root).as_posix() if root in path.parents else path.name
