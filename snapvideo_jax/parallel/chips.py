"""Data sheets of accelerators: peak FLOP/s, memory, links."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Chip:
    """One accelerator chip. Fields that only a forecast needs are None for GPUs.

    Attributes:
      name: for example "v5e".
      kinds: prefixes of JAX's ``device_kind``; the longest that matches decides.
      peak_tflops: dense bf16 TFLOP/s.
      hbm_gbps: memory bandwidth in GB/s.
      hbm_bytes: memory that programs can use, without that of the runtime.
      ici_gbps: GB/s of one link between chips of a slice, in one direction.
      torus_dims: dimensions of the torus that these links form.
      dcn_gbps: GB/s between slices, a chip's share of its host's network cards. An
        assumption: a VM or a job may get less.
      clock_ghz: clock of the compiler's ``estimated_cycles``. Inferred: with it the
        matrix units reach exactly the peak, and the estimates of a
        4096 x 4096 x 16384 bf16 product are within 12 % of its time at that peak.
    """

    name: str
    kinds: tuple[str, ...]
    peak_tflops: float
    hbm_gbps: float | None = None
    hbm_bytes: float | None = None
    ici_gbps: float | None = None
    torus_dims: int | None = None
    dcn_gbps: float | None = None
    clock_ghz: float | None = None


# Peaks, memory and links: cloud.google.com/tpu/docs and jax-ml.github.io/scaling-book.
# dcn_gbps: cards of a host over its chips, 2 x 100 Gbit/s over 8 (v5e), 4 x 200 over 8
# (v6e), 200 over 4 (v4, v5p; the book's 6.25 GB/s).
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", ("TPU v4",), 275, 1228, 31e9, 45, 3, 6.25, 1.05),
        Chip("v5e", ("TPU v5 lite", "TPU v5e"), 197, 819, 15.5e9, 45, 2, 3.125, 1.5),
        Chip("v5p", ("TPU v5", "TPU v5p"), 459, 2765, 95e9, 90, 3, 6.25, 1.75),
        Chip("v6e", ("TPU v6 lite", "TPU v6e"), 918, 1640, 31e9, 90, 2, 12.5, 1.75),
        Chip("A100", ("NVIDIA A100",), 312),
        Chip("H100", ("NVIDIA H100",), 989),
        Chip("H200", ("NVIDIA H200",), 989),
    )
}


def find_chip(device_kind: str) -> Chip | None:
    """The chip of JAX's ``device_kind``; None where it is unknown."""
    known = {kind: chip for chip in CHIPS.values() for kind in chip.kinds}
    names = [kind for kind in known if device_kind.startswith(kind)]
    return known[max(names, key=len)] if names else None


def peak_tflops(device_kind: str) -> float:
    """Dense bf16 TFLOP/s of a device; 0 where it is unknown."""
    chip = find_chip(device_kind)
    return chip.peak_tflops if chip else 0.0
