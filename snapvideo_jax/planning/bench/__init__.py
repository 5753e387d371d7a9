"""Measurements on the devices of this machine: `snapvideo bench`.

The jitted train step of `step`, the network's forward pass or the sampler runs on the
mesh of the config with a batch that is already on the devices. The time that a run
waits for data is in its own metrics (``data_wait_share``).

- `programs`: the programs that are measured; `measure`: times and memory
- `traces`: the time of each part of the network, from a profiler trace
- `report`: text; `data`: the rate at which clips are read
- `models`, `networks`: FIT compared with the U-Nets and DiTs
"""

from snapvideo_jax.planning.bench.measure import Times, bench, interleaved
from snapvideo_jax.planning.bench.programs import PROGRAMS, Program, synthetic_batch
from snapvideo_jax.planning.bench.report import describe

__all__ = [
    "PROGRAMS",
    "Program",
    "Times",
    "bench",
    "describe",
    "interleaved",
    "synthetic_batch",
]
