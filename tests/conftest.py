"""Settings of the whole suite, made before anything imports JAX.

This file must not import the package: the type checks of the signatures
(--jaxtyping-packages in pyproject.toml) are planted when a module is first imported.
"""

import os
import pathlib

_CACHE = pathlib.Path(__file__).parent.parent / ".jax_cache"

os.environ["JAX_PLATFORMS"] = "cpu"
# Eight devices to test sharding on. Unoptimised code compiles 4 to 5 times faster.
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        "--xla_backend_optimization_level=0",
    ]
).strip()
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import jax  # noqa: E402  (reads the environment above)
from absl import flags  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
flags.FLAGS.mark_as_parsed()  # Grain reads flags, which only absl's app.run parses.
