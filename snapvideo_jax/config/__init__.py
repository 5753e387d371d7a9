"""Configs: plain ml_collections files in, checked objects out.

`sections` turns dataclasses and linen modules into ConfigDicts, `files` loads,
overrides and compares configs, `experiment` builds the objects, and `run` holds the
settings of a run. Config files import this package,
``from snapvideo_jax import config as configs``.
"""

from snapvideo_jax.config.experiment import Experiment, Sheets, build
from snapvideo_jax.config.files import (
    MAY_CHANGE,
    check_same,
    from_json,
    load,
    of_workdir,
    overridden,
    to_json,
)
from snapvideo_jax.config.run import Run
from snapvideo_jax.config.sections import (
    DERIVED,
    choose,
    model_section,
    parse_arg,
    section,
)
from snapvideo_jax.parallel.sharding import MeshConfig
from snapvideo_jax.text.config import Text

__all__ = [
    "DERIVED",
    "MAY_CHANGE",
    "Experiment",
    "MeshConfig",
    "Run",
    "Sheets",
    "Text",
    "build",
    "check_same",
    "choose",
    "from_json",
    "load",
    "model_section",
    "of_workdir",
    "overridden",
    "parse_arg",
    "section",
    "to_json",
]
