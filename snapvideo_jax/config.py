"""Configs: plain ml_collections files in, checked constructors out.

A config file's ``get_config(arg)`` returns a ConfigDict with a section for every part.
Defaults live in the fields of what a section configures: `section` turns a dataclass or
linen module into a ConfigDict of all its fields, `build` turns the sections back into
the objects, once, and checks everything that can be checked before a device is used.
"""

import contextlib
import dataclasses
import importlib.util
import json
import math
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from snapvideo_jax import shipped
from snapvideo_jax.construct import construct, unknown
from snapvideo_jax.data import DataConfig
from snapvideo_jax.diffusion import EDM, Guidance, Sampler
from snapvideo_jax.ending import first_line
from snapvideo_jax.models import MODELS, Network
from snapvideo_jax.optim import Optimizer
from snapvideo_jax.run_config import Run
from snapvideo_jax.settings import differences
from snapvideo_jax.sharding import MeshConfig
from snapvideo_jax.step import Training
from snapvideo_jax.text import TextEncoder
from snapvideo_jax.text.config import Text

DERIVED = {
    **dict.fromkeys(
        MODELS.values(),
        ("frames", "height", "width", "further_sizes", "parent", "name"),
    ),
    Training: ("videos", "images"),
}
"""Fields that `build` fills from the data section, so that no two can disagree."""


@dataclasses.dataclass(frozen=True)
class Sheets:
    """Samples made again and again with the same prompts and noise, to watch.

    Attributes:
      prompts: what is sampled.
      guidance: weight ``g`` of classifier-free guidance, 0 for none (the weight of
        other papers is 1 + g); also the default of `snapvideo sample`. How it is
        applied is the section ``guidance``.
      fps: frame-rate the samples are conditioned on; 0 for images.
      resolution: height and width of the original the samples are conditioned on;
        (0, 0) for the size that the model makes.
      every_steps: steps between sheets; 0 for none.
      scale: factor by which pixels are enlarged.
    """

    prompts: tuple[str, ...] = ()
    guidance: float = 0.0
    fps: float = 24.0
    resolution: tuple[int, int] = (0, 0)
    every_steps: int = 0
    scale: int = 1


SECTIONS = {
    "data": DataConfig,
    "text": Text,
    "diffusion": EDM,
    "optimizer": Optimizer,
    "training": Training,
    "mesh": MeshConfig,
    "sampler": Sampler,
    "guidance": Guidance,
    "sheets": Sheets,
    "run": Run,
}
NOT_ALWAYS_THERE = ("guidance",)
"""Sections that a run begun before there were any lacks; it has their defaults."""
MAY_CHANGE = (
    "run.",
    "sheets.",
    "sampler.",
    "guidance.",
    "mesh.",
    "model.remat",
    "model.group_chunks",
    "model.unroll",
    "optimizer.on_bad_step",
    "optimizer.spike_factor",
    "optimizer.ema_snapshot_",
    "data.root",
    "text.path",
    "data.num_",
    "data.prefetch",
    "data.cache_",
)
"""What may differ from the config that a workdir was begun with."""
MOVED = re.compile(r"data\.mixture\.\w+\.root")
"""Likewise: data sets may be moved."""


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything a config file stands for, built and checked."""

    seed: int
    model: Network
    data: DataConfig
    text: TextEncoder
    diffusion: EDM
    optimizer: Optimizer
    training: Training
    mesh: MeshConfig
    sampler: Sampler
    guidance: Guidance
    sheets: Sheets
    run: Run


def section(kind: type, **overrides) -> ConfigDict:
    """A ConfigDict of all fields of ``kind``, with their defaults or ``overrides``.

    Raises:
      ValueError: a name is no field of ``kind``.
    """
    fields = {
        field.name: ConfigDict() if "of" in field.metadata else field.default
        for field in dataclasses.fields(kind)
        if field.name not in DERIVED.get(kind, ())
    }
    for name in overrides:
        if name not in fields:
            raise ValueError(unknown(name, fields, kind.__name__))
    return ConfigDict(fields | overrides)


def model_section(name: str, **overrides) -> ConfigDict:
    """The section of a model; ``name`` is a key of `snapvideo_jax.models.MODELS`."""
    config = section(MODELS[name], **overrides)
    config.name = name
    return config


def choose(table: dict[str, dict], name: str, key: str) -> dict:
    """A row of a table of sizes or variants.

    Raises:
      ValueError: ``key`` is none of its rows.
    """
    if key not in table:
        raise ValueError(
            f"config argument {name}={key!r} is unknown; use one of {sorted(table)}."
        )
    return table[key]


def parse_arg(arg: str | None, **defaults) -> ConfigDict:
    """``"size=500m,quick"`` -> values, typed after the defaults.

    Raises:
      ValueError: an unknown name, or a value that is not of its default's type.
    """
    values = dict(defaults)
    for item in filter(None, (arg or "").split(",")):
        name, _, text = item.partition("=")
        if name not in defaults:
            raise ValueError(unknown(name, defaults, "the config's argument"))
        kind = type(defaults[name])
        try:
            values[name] = _flag(text) if kind is bool else kind(text)
        except ValueError:
            raise ValueError(
                f"config argument {name}={text!r} is not of type {kind.__name__}."
            ) from None
    return ConfigDict(values)


def load(path: str, overrides: list[str]) -> ConfigDict:
    """The config of ``FILE.py[:arg]`` or ``NAME[:arg]``, with ``--config.a.b=value``.

    A name as demo, or a path as configs/demo.py that is not there, is of a config that
    comes with the package.

    Raises:
      ValueError: no such file, an unknown key (with the nearest one), a wrong type, or
        what the file itself refuses.
    """
    file, _, arg = path.partition(":")
    return overridden(_get_config(Path(file))(arg or None), overrides)


def of_workdir(workdir: Path, overrides: list[str] = []) -> ConfigDict:  # noqa: B006
    """The config of a run, with overrides of what may change.

    Raises:
      ValueError: the folder holds no run, or as `load` and `check_same`.
    """
    path = workdir / "config.json"
    if not path.is_file():
        raise ValueError(f"--workdir={workdir} holds no run: {path.name} is missing.")
    kept = path.read_text()
    config = overridden(from_json(kept), overrides)
    check_same(config, kept, workdir)
    return config


def overridden(config: ConfigDict, overrides: list[str]) -> ConfigDict:
    """A config with ``--config.a.b=value`` applied.

    Raises:
      ValueError: a field is unknown, or a value of another type.
    """
    for item in overrides:
        _check_override(item, config)
    values = flags.FlagValues()
    # Without sys_argv it would look for overrides in this process's command line.
    line = [sys.argv[0], *overrides]
    config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=line)
    try:
        rest = values(line)
    except (flags.Error, TypeError, ValueError) as error:
        raise ValueError(first_line(error)) from None
    if rest[1:]:
        raise ValueError(f"Unknown argument {rest[1]!r}; see --help.")
    return values.config


def build(config: ConfigDict) -> Experiment:
    """Constructs and checks every part of an experiment.

    Raises:
      ValueError: names the field, its value, and what would do.
    """
    expected = {"seed", "model", *SECTIONS}
    for name in config:
        if name not in expected:
            raise ValueError(unknown(name, expected, "config"))
    for name in sorted(expected - set(config) - set(NOT_ALWAYS_THERE)):
        raise ValueError(f"config.{name} is missing.")
    parts = {
        name: _construct(kind, config.get(name, ConfigDict()), name)
        for name, kind in SECTIONS.items()
        if name != "training"
    }
    data = parts["data"]
    common = math.gcd(data.videos_per_batch, data.images_per_batch)
    videos, images = data.videos_per_batch // common, data.images_per_batch // common
    training = _construct(
        Training, config.training, "training", videos=videos, images=images
    )
    name = config.model.get("name", None)
    if name not in MODELS:
        raise ValueError(f"model.name={name!r} is unknown; use {sorted(MODELS)}.")
    fields = {key: value for key, value in config.model.items() if key != "name"}
    size = dict(frames=data.frames, height=data.height, width=data.width)
    if data.buckets:
        if not hasattr(MODELS[name], "further_sizes"):
            raise ValueError(
                f"data.buckets={data.buckets}, but model.name={name!r} takes clips of "
                "one size; use 'fit', or data.buckets=()."
            )
        size["further_sizes"] = data.buckets
    model = _construct(MODELS[name], ConfigDict(fields), "model", **size)
    parts["text"] = parts["text"].encoder()
    experiment = Experiment(seed=config.seed, model=model, training=training, **parts)
    _check(experiment)
    return experiment


def _check(experiment: Experiment) -> None:
    """What no part can check alone."""
    if experiment.seed < 0:
        raise ValueError(f"seed={experiment.seed} is below 0; use 0 or more.")
    experiment.model.validate()
    _check_latents(experiment)
    training, batch = experiment.training, experiment.data.batch
    period = training.self_conditioning_period
    unit = training.videos + training.images
    if period % unit:
        raise ValueError(
            f"training.self_conditioning_period={period} is not a multiple of {unit}, "
            f"the videos and images of data that take turns in a batch."
        )
    if batch % (period * training.microbatches):
        raise ValueError(
            f"The batch of {batch} (data.videos_per_batch + data.images_per_batch) is "
            f"not a multiple of training.self_conditioning_period={period} times "
            f"training.microbatches={training.microbatches}."
        )
    _check_low_resolution(experiment)
    if experiment.diffusion.images_as_videos:
        return
    data = experiment.data
    for name in ("videos_per_batch", "images_per_batch"):
        if getattr(data, name) % (period * training.microbatches):
            raise ValueError(
                f"data.{name}={getattr(data, name)} is not a multiple of "
                f"training.self_conditioning_period={period} times "
                f"training.microbatches={training.microbatches}, as it has to be "
                "where diffusion.images_as_videos=False."
            )


def _check_latents(experiment: Experiment) -> None:
    """That a network without latents is not asked for what takes them."""
    training, mesh = experiment.training, experiment.mesh
    if training.self_conditioning and not experiment.model.self_conditions:
        raise ValueError(
            f"training.self_conditioning={training.self_conditioning}: this network "
            "has no latents to be conditioned on; use 0."
        )
    if mesh.context > 1 and experiment.model.guess().parts == 1:
        raise ValueError(
            f"mesh.context={mesh.context}: this network cannot divide a clip over "
            "devices; use 1."
        )


def _check_low_resolution(experiment: Experiment) -> None:
    """That an upsampler has something to enlarge, and no other network has."""
    model, data = experiment.model, experiment.data
    height, width = experiment.training.low_resolution
    given = f"training.low_resolution={(height, width)}"
    if model.is_upsampler != bool(height and width):
        raise ValueError(
            f"{given} and model.in_channels={model.in_channels} do not go together; "
            "an upsampler has a size to enlarge and 6 channels, a first stage has "
            "(0, 0) and 3."
        )
    if model.is_upsampler and data.buckets:
        raise ValueError(
            f"data.buckets={data.buckets}: an upsampler takes clips of one size; use "
            "data.buckets=()."
        )
    if model.is_upsampler and (data.height % height or data.width % width):
        raise ValueError(
            f"{given} does not divide data.height={data.height} and "
            f"data.width={data.width}; use a size that does."
        )
    if model.is_upsampler and experiment.sheets.every_steps:
        raise ValueError(
            f"sheets.every_steps={experiment.sheets.every_steps}: an upsampler cannot "
            "make sheets from prompts alone; use 0."
        )


def to_json(config: ConfigDict) -> str:
    """The resolved config, as it is kept in the workdir."""
    return config.to_json_best_effort(indent=2, sort_keys=True)


def from_json(text: str) -> ConfigDict:
    """The config of a workdir."""
    return ConfigDict(json.loads(text))


def check_same(config: ConfigDict, kept: str, where: Path) -> None:
    """Refuses to go on in a workdir that was begun with another config.

    Raises:
      ValueError: names the first fields that differ, with both values.
    """
    ours, theirs = (json.loads(text) for text in (to_json(config), kept))
    differing = [
        f"{name}={value} (was {before})"
        for name, value, before in differences(ours, theirs)
        if not name.startswith(MAY_CHANGE) and not MOVED.fullmatch(name)
    ]
    if differing:
        raise ValueError(
            f"{where} was begun with another config: {', '.join(differing[:5])}. Use "
            "another --workdir, or the values it was begun with."
        )


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Ends the program with one line where the user's input is at fault."""
    try:
        yield
    except ValueError as error:
        print(f"snapvideo: error: {error}", file=sys.stderr)
        raise SystemExit(2) from error


def _get_config(file: Path) -> Callable[[str | None], ConfigDict]:
    """The function of a config file that makes its config."""
    named, file = file, shipped.find(file)
    spec = importlib.util.spec_from_file_location("snapvideo_config", file)
    if not file.is_file() or spec is None:
        raise ValueError(
            f"--config={named}: there is no such Python file, and no config of this "
            f"name comes with snapvideo; those are {', '.join(shipped.names())}."
        )
    folder = str(file.parent.absolute())
    if folder not in sys.path:
        sys.path.append(folder)  # so that a config may import its neighbours
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config


def _check_override(item: str, config: Any) -> None:
    """Makes sure that what ``--config.a.b=value`` changes is there."""
    found = re.match(r"--?(?:no)?config\.([^=]*)", item)
    where = "config"
    for name in found[1].split(".") if found else ():
        if not isinstance(config, ConfigDict):
            raise ValueError(f"{where}={config!r} is a value and has no {name!r}.")
        if name not in config:
            raise ValueError(unknown(name, config, where))
        config, where = config[name], f"{where}.{name}"


def _construct(kind: type, config: ConfigDict, where: str, **derived):
    return construct(kind, config, where, DERIVED.get(kind, ()), **derived)


def _flag(text: str) -> bool:
    if text.lower() in ("", "true", "1"):
        return True
    if text.lower() in ("false", "0"):
        return False
    raise ValueError(text)
