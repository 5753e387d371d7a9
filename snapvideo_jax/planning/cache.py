"""A cache of compiled plans: a compilation takes minutes."""

import hashlib
import json
import os
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from snapvideo_jax import config as configs
from snapvideo_jax.io.errors import first_line
from snapvideo_jax.io.files import write_json
from snapvideo_jax.planning.compile import PlanRequest, compile_plan
from snapvideo_jax.planning.compiler_flags import VARIABLE
from snapvideo_jax.planning.target import libtpu_version

PACKAGE = Path(__file__).parents[1]
CACHE = Path("~/.cache/snapvideo/plans").expanduser()
PACKAGES = ("jax", "jaxlib", "flax", "optax")


def cached_plan(request: PlanRequest) -> dict[str, Any]:
    """The plan of a request, compiled or read from the cache.

    Raises:
      ValueError: as `compile_plan`; or the compiler refuses the program for a reason
        other than its memory, now or before.
    """
    path = CACHE / f"{digest(request)}.json"
    if path.is_file():
        result = json.loads(path.read_text())
    else:
        try:
            result = compile_plan(request)
        except jax.errors.JaxRuntimeError as error:
            result = {"refusal": first_line(error)}
        write_json(path, result)
    if "refusal" in result:
        raise ValueError(f"The compiler refuses the program: {result['refusal']}")
    return result


def is_cached(request: PlanRequest) -> bool:
    """Whether the plan of a request is in the cache."""
    return (CACHE / f"{digest(request)}.json").is_file()


def digest(request: PlanRequest) -> str:
    """The cache key: changes with the request, this package and the compiler.

    Raises:
      ValueError: libtpu is not installed.
    """
    found = hashlib.sha256(libtpu_version().encode())
    found.update(configs.to_json(request.config).encode())
    found.update(repr((request.target, request.clips)).encode())
    for name in PACKAGES:
        found.update(f"{name} {metadata.version(name)}".encode())
    found.update(os.environ.get(VARIABLE, "").encode())
    for path in sorted(PACKAGE.rglob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()[:32]
