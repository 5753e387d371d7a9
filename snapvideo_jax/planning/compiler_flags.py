"""Flags of the TPU compiler that plans and runs share.

A process reads them from LIBTPU_INIT_ARGS when it first uses a TPU or compiles for one.
`write` writes a shell script that a launcher can source.
"""

import os
from pathlib import Path

LIBTPU_FLAGS = (
    "--xla_enable_async_all_gather=true",
    "--xla_tpu_enable_async_collective_fusion=true",
    "--xla_tpu_enable_async_collective_fusion_fuse_all_gather=true",
    "--xla_tpu_enable_async_collective_fusion_multiple_steps=true",
    "--xla_tpu_overlap_compute_collective_tc=true",
)
"""They overlap all-gathers of parameters with matrix products: of 42 ms of all-gathers
in a step of FIT 3.9B on v5p:4x4x8, 41 are then hidden."""

VARIABLE = "LIBTPU_INIT_ARGS"
DEFAULT = " ".join(LIBTPU_FLAGS)

_SHELL = """\
# shellcheck shell=bash
# Written by `snapvideo plan --flags FILE`; source it before a run.
#
# All-gathers of parameters overlap matrix products. Forecast for a step of FIT 3.9B:
# of 42 ms of all-gathers on v5p:4x4x8 41 are then hidden, of 63 ms on v6e:16x16 62.
# Flags that are already set are not changed.
if [[ -z ${LIBTPU_INIT_ARGS+set} ]]; then
  LIBTPU_INIT_ARGS="%s"
fi
export LIBTPU_INIT_ARGS
"""


def set_flags() -> str:
    """Sets the flags of this process, unless some are set; returns them."""
    return os.environ.setdefault(VARIABLE, DEFAULT)


def write(path: Path) -> None:
    """Writes a shell script that exports the flags.

    Raises:
      ValueError: the file cannot be written.
    """
    try:
        path.write_text(_SHELL % " \\\n".join(LIBTPU_FLAGS), encoding="utf-8")
    except OSError as error:
        raise ValueError(
            f"--flags={path} cannot be written: {error.strerror}; use a file in a "
            "folder that exists."
        ) from None
