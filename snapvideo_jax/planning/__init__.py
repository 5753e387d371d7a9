"""Plans: memory, speed and cost of a config on a TPU topology, without the TPU.

The train step or the sampler is compiled ahead of time, on any machine with libtpu.

- `plan`: the function and the options of `snapvideo plan`
- `target`: topologies; `programs`: the train step and the sampler on shapes
- `compile`: compiles them; `cache`: saves the plans; `report`: formats them
- `compiler_flags`: flags of libtpu that plans and runs share
- `estimate`, `search`, `nearest`: select settings to compile
- `golden_plans`, `tables`: docs/plans and docs/plans.md
- `forecast/`: the time of a step from its compiled program
- `bench/`: measurements on the devices of this machine, `snapvideo bench`
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
