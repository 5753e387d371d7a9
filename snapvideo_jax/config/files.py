"""Config files and the config.json of a run: loaded, overridden, written, compared."""

import importlib.util
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from snapvideo_jax.config.sections import unknown
from snapvideo_jax.io import saved_settings, shipped
from snapvideo_jax.io.errors import first_line

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
"""Prefixes of fields that may differ from the config saved in the workdir."""
MOVED = re.compile(r"data\.mixture\.\w+\.root")
"""Likewise, as data sets may be moved."""


def load(path: str, overrides: Sequence[str]) -> ConfigDict:
    """The config of ``FILE.py[:arg]`` or ``NAME[:arg]``, with ``--config.a.b=value``.

    A name such as demo, or a path such as configs/demo.py that does not exist, selects
    a config that comes with the package.

    Raises:
      ValueError: no such file, an unknown key (with the nearest one), a wrong type, or
        an error of the file itself.
    """
    file, _, arg = path.partition(":")
    return overridden(_get_config(Path(file))(arg or None), overrides)


def of_workdir(workdir: Path, overrides: Sequence[str] = ()) -> ConfigDict:
    """The config of a run, with overrides of fields that may change.

    Raises:
      ValueError: the folder does not hold a run, or as `load` and `check_same`.
    """
    path = workdir / "config.json"
    if not path.is_file():
        raise ValueError(f"--workdir={workdir} holds no run: {path.name} is missing.")
    saved = path.read_text()
    config = overridden(from_json(saved), overrides)
    check_same(config, saved, workdir)
    return config


def overridden(config: ConfigDict, overrides: Sequence[str]) -> ConfigDict:
    """A config with ``--config.a.b=value`` applied.

    Raises:
      ValueError: a field is unknown, or a value has another type.
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


def to_json(config: ConfigDict) -> str:
    """The resolved config in the format of config.json."""
    return config.to_json_best_effort(indent=2, sort_keys=True)


def from_json(text: str) -> ConfigDict:
    """The config of a config.json."""
    return ConfigDict(json.loads(text))


def check_same(config: ConfigDict, saved: str, where: Path) -> None:
    """Checks that a config may resume the run of a workdir.

    Args:
      config: the config.
      saved: config.json of the run.
      where: the workdir, for the message.

    Raises:
      ValueError: names the first fields that differ, with both values.
    """
    saved_settings.check_same(
        json.loads(to_json(config)),
        json.loads(saved),
        str(where),
        "use another --workdir, or those settings",
        lambda name: name.startswith(MAY_CHANGE) or bool(MOVED.fullmatch(name)),
    )


def _get_config(file: Path) -> Callable[[str | None], ConfigDict]:
    """``get_config`` of a config file."""
    named, file = file, shipped.find(file)
    spec = importlib.util.spec_from_file_location("snapvideo_config", file)
    if not file.is_file() or spec is None:
        raise ValueError(
            f"--config={named}: there is no such Python file, and no config of this "
            f"name comes with snapvideo; it has {', '.join(shipped.names())}."
        )
    folder = str(file.parent.absolute())
    if folder not in sys.path:
        sys.path.append(folder)  # so that a config may import its neighbours
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config


def _check_override(item: str, config: Any) -> None:
    """Checks that the field of ``--config.a.b=value`` exists."""
    found = re.match(r"--?(?:no)?config\.([^=]*)", item)
    where = "config"
    for name in found[1].split(".") if found else ():
        if not isinstance(config, ConfigDict):
            raise ValueError(f"{where}={config!r} is a value and has no {name!r}.")
        if name not in config:
            raise ValueError(unknown(name, config, where))
        config, where = config[name], f"{where}.{name}"
