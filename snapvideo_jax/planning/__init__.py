"""What a config needs of a TPU topology, without the TPU: `snapvideo plan`.

The real train step, or the real sampler, is compiled for the topology ahead of time, on
any machine that has libtpu. `work` makes the programs, `compile` compiles them and
gathers what they need, `cache` remembers it and `report` prints it. `estimate`,
`search` and `nearest` choose what is worth compiling; `golden` and `tables` keep the
plans that docs/plans.md shows; `flags` are the compiler's.
"""

from snapvideo_jax.planning.cache import cached_plan
from snapvideo_jax.planning.compile import PlanRequest, compile_plan
from snapvideo_jax.planning.compiler_flags import LIBTPU_FLAGS
from snapvideo_jax.planning.report import describe
from snapvideo_jax.planning.target import Target, topology_devices

__all__ = [
    "LIBTPU_FLAGS",
    "PlanRequest",
    "Target",
    "compile_plan",
    "cached_plan",
    "describe",
    "topology_devices",
]
