"""`export`: writes the model of a run as a bundle."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from snapvideo_jax import config as configs
from snapvideo_jax.export import bundle, programs
from snapvideo_jax.export.model_card import CARD, model_card
from snapvideo_jax.io.files import check_empty, write_atomically
from snapvideo_jax.io.options import SMALL_NOISE
from snapvideo_jax.parallel.sharding import MeshConfig, make_mesh
from snapvideo_jax.sampling.cascade import check_stages, upsampler_of
from snapvideo_jax.sampling.options import resolution_of, sampler_of
from snapvideo_jax.training.checkpoints.restore import (
    abstract_sharded_state,
    restore_ema_profile,
    restore_params,
)

FORMATS = ("bundle", "stablehlo", "orbax")
DEFAULT_PROMPTS = 4
"""Prompts of the config whose embeddings are stored where none are given."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Options of `export`.

    Attributes:
      workdir: of the run.
      out: folder of the bundle, empty or new.
      cascade: workdir of an upsampler's run; ``out`` then gets two bundles, in the
        folders base and upsampler.
      formats: some of `FORMATS`.
      weights: "raw", "ema", or the folder of a post-hoc EMA of `snapvideo ema`.
      dtype: of the stored weights, "float32" or "bfloat16".
      platforms: that the programs run on, some of `programs.PLATFORMS`.
      prompt: captions whose embeddings are stored as example inputs (default: some of
        the config's, where its text encoder is hash).
      shard_gb: largest size of a weights file in GB.
      steps, solver, churn: of the exported sampler (default: the config's).
      cascade_steps, cascade_solver: of the upsampler's (default: its config's).

    Raises:
      ValueError: a value is unknown, or options contradict each other.
    """

    workdir: str | Path
    out: str | Path
    cascade: str | Path | None = None
    formats: Sequence[str] = ("bundle",)
    weights: str = "ema"
    dtype: str = "float32"
    platforms: Sequence[str] = programs.PLATFORMS
    prompt: Sequence[str] = ()
    shard_gb: float = 5.0
    steps: int | None = None
    solver: str | None = None
    churn: float | None = None
    cascade_steps: int | None = None
    cascade_solver: str | None = None

    def __post_init__(self):
        for option, values, known in (
            ("--format", self.formats, FORMATS),
            ("--platforms", self.platforms, programs.PLATFORMS),
            ("--dtype", (self.dtype,), bundle.DTYPES),
        ):
            for value in values:
                if value not in known:
                    raise ValueError(
                        f"{option}={value} is unknown; use some of {', '.join(known)}."
                    )
        for name in ("cascade_steps", "cascade_solver"):
            if getattr(self, name) is not None and not self.cascade:
                raise ValueError(
                    f"--{name} is for the second stage; give --cascade too, or use "
                    f"--{name.removeprefix('cascade_')}."
                )
        if self.cascade and self.weights not in ("raw", "ema"):
            raise ValueError(
                f"--weights={self.weights} belongs to one run; use raw or ema with "
                "--cascade, or export the two runs separately."
            )


def export(options: ExportOptions) -> list[Path]:
    """Writes the bundle of a run, or those of both runs of a cascade.

    Returns:
      The files that were written.

    Raises:
      ValueError: ``out`` is not empty; a run or its weights are missing; the stages do
        not match; or a caption cannot be embedded.
    """
    out = Path(options.out)
    check_empty(out, "--out")
    if options.cascade:
        _export_cascade(options)
    else:
        _export_run(options)
    return sorted(path for path in out.rglob("*") if path.is_file())


def _export_cascade(options: ExportOptions) -> None:
    """Exports both runs; the second with captions and frame rate of the first."""
    second = upsampler_of(Path(options.cascade))
    first = configs.build(configs.of_workdir(Path(options.workdir)))
    check_stages(first, second, options.workdir, options.cascade)
    single = {"cascade": None, "cascade_steps": None, "cascade_solver": None}
    base = dataclasses.replace(options, out=Path(options.out) / "base", **single)
    upsampler = dataclasses.replace(
        options,
        workdir=options.cascade,
        out=Path(options.out) / "upsampler",
        steps=options.cascade_steps,
        solver=options.cascade_solver,
        churn=None,
        **single,
    )
    sampler_of(second, upsampler)  # raises before any file is written
    _export_run(base)
    _export_run(upsampler, first.sheets)
    bundle.write_index(Path(options.out), ["base", "upsampler"])


def _export_run(
    options: ExportOptions, first_stage: configs.Sheets | None = None
) -> None:
    """Exports one run; prompts and frame rate are those of ``first_stage``, if any."""
    workdir, out = Path(options.workdir), Path(options.out)
    experiment, params, step = load(workdir, options.weights)
    if first_stage:
        changes = {"prompts": first_stage.prompts, "fps": first_stage.fps}
        sheets = dataclasses.replace(experiment.sheets, **changes)
        experiment = dataclasses.replace(experiment, sheets=sheets)
    sampler = sampler_of(experiment, options)
    config = configs.of_workdir(workdir)
    leaves = {
        name: np.asarray(leaf).astype(bundle.DTYPES[options.dtype])
        for name, leaf in flatten_dict(params, sep="/").items()
    }
    about = {
        "formats": list(options.formats),
        "weights": _weights_name(options.weights, workdir),
        "step": step,
        "dtype": options.dtype,
    }
    out.mkdir(parents=True, exist_ok=True)
    if {"bundle", "stablehlo"} & set(options.formats):
        bundle.write_weights(out, leaves, round(options.shard_gb * 1e9))
    if "orbax" in options.formats:
        bundle.write_orbax(out, unflatten_dict(leaves, sep="/"))
    prompts = list(options.prompt)
    if not prompts and not config.text.path:  # the hash encoder needs no files
        prompts = list(experiment.sheets.prompts[:DEFAULT_PROMPTS])
    if prompts:
        bundle.write_tensors(out / bundle.INPUTS, _inputs(experiment, prompts))
    if "stablehlo" in options.formats:
        settings = {name: getattr(sampler, name) for name in programs.SAMPLER}
        exported = programs.programs_of(experiment, sampler)
        programs.write(out, exported, leaves, options.platforms, sampler=settings)
    count = sum(leaf.size for leaf in leaves.values())
    card = model_card(experiment, workdir, {**about, "config": config.to_dict()}, count)
    write_atomically(out / CARD, card.encode())
    bundle.write_config(out, config, leaves, **about, prompts=prompts)


def load(workdir: Path, weights: str, step: int | None = None):
    """The experiment of a run, its parameters as NumPy arrays, and their step.

    Args:
      workdir: of the run.
      weights: "raw", "ema", or the folder of a post-hoc EMA of `snapvideo ema`.
      step: of the checkpoint; None for the newest.

    Raises:
      ValueError: there is no run, no such checkpoint of it, or no such EMA.
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


def _inputs(
    experiment: "configs.Experiment", prompts: list[str]
) -> dict[str, np.ndarray]:
    """Inputs of the sampler for some captions, equal to those of `snapvideo sample`.

    Those of an upsampler lack the small clip, which the first stage samples.

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
        "resolution": np.full((count, 2), resolution_of(experiment), np.float32),
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


def _weights_name(weights: str, workdir: Path) -> str:
    """The weights as config.json names them: a folder relative to the workdir."""
    path, root = Path(weights).resolve(), workdir.resolve()
    if weights in ("raw", "ema"):
        return weights
    return path.relative_to(root).as_posix() if root in path.parents else path.name
