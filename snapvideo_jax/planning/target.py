"""Target topologies of TPUs, which need not exist on this machine."""

import dataclasses
import os
from importlib import metadata
from typing import Any

from jax.experimental import topologies

from snapvideo_jax.io.errors import first_line
from snapvideo_jax.parallel.chips import CHIPS, Chip
from snapvideo_jax.planning import compiler_flags

TPUS = sorted(name for name, chip in CHIPS.items() if chip.hbm_gbps)
SHAPES = {
    2: ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
    3: (
        *("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8"),
        *("8x8x16", "8x16x16"),
    ),
}
"""Slices of Google Cloud, by the dimensions of the chip's torus; each has twice
as many chips as the one before."""


@dataclasses.dataclass(frozen=True)
class Target:
    """A topology, for example "v5p:4x4x8", and the number of such slices."""

    topology: str
    slices: int = 1

    @property
    def chip(self) -> Chip:
        """The chip of the topology.

        Raises:
          ValueError: the chip is unknown.
        """
        name = self.topology.partition(":")[0]
        if name not in TPUS:
            raise ValueError(
                f"--topology={self.topology}: chip {name!r} is unknown; use CHIP:SHAPE "
                f"with a chip of {TPUS}, as v5p:4x4x8."
            )
        return CHIPS[name]

    def larger(self) -> list["Target"]:
        """Topologies of the same chip with 2, 4, 8... times the chips, in this order.

        Empty for a shape that is not in `SHAPES`.
        """
        shapes = SHAPES[self.chip.torus_dims]
        shape = self.topology.partition(":")[2]
        if shape not in shapes:
            return []
        return [
            dataclasses.replace(self, topology=f"{self.chip.name}:{each}")
            for each in shapes[shapes.index(shape) + 1 :]
        ]


def libtpu_version() -> str:
    """The version of libtpu, the compiler.

    Raises:
      ValueError: libtpu is not installed.
    """
    try:
        return metadata.version("libtpu")
    except metadata.PackageNotFoundError:
        raise ValueError(
            "libtpu is not installed; it is the compiler for TPUs. Use "
            "pip install 'snapvideo_jax[tpu]'."
        ) from None


def topology_devices(target: Target) -> list[Any]:
    """The devices of a topology, which need not exist on this machine.

    Raises:
      ValueError: libtpu is not installed, or the topology does not exist.
    """
    if target.slices < 1:
        raise ValueError(f"--slices={target.slices} is too small; use 1 or more.")
    libtpu_version()
    # Otherwise libtpu looks for a TPU for minutes, and refuses a second process.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    compiler_flags.set_flags()
    options = {"num_slices": target.slices} if target.slices > 1 else {}
    try:
        found = topologies.get_topology_desc(
            platform="tpu", topology_name=target.topology, **options
        )
    except Exception as error:  # libtpu raises errors of many types
        reason = first_line(error)
        raise ValueError(
            f"--topology={target.topology} does not exist: {reason}. Its shape is the "
            "chips along each side, as v5e:16x16, v6e:16x16 or v5p:4x4x8."
        ) from None
    return list(found.devices)
