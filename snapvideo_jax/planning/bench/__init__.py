"""How fast a config runs on the devices that are here: `snapvideo bench`.

What is measured is what a run does: the jitted train step of `step`, on the mesh of the
config, with a batch that is on the devices already; or the network's forward pass, or
the sampler. A run adds the loading of data, which its own metrics tell
(``data_wait_share``). `programs` makes what is measured, `measure` times it, `traces`
reads where the time went, `command` is the verb.
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
