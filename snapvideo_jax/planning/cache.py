"""Answers that were given before: a compilation takes minutes, reading it none."""

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
from snapvideo_jax.planning.compile import Question, answer
from snapvideo_jax.planning.compiler_flags import VARIABLE
from snapvideo_jax.planning.target import libtpu_version

PACKAGE = Path(__file__).parents[1]
CACHE = Path("~/.cache/snapvideo/plans").expanduser()
PACKAGES = ("jax", "jaxlib", "flax", "optax")


def cached(question: Question) -> dict[str, Any]:
    """The `answer` to a question, or what it was before.

    Raises:
      ValueError: as `answer`; or the compiler refuses the program for another reason
        than its memory, now or before.
    """
    path = CACHE / f"{digest(question)}.json"
    if path.is_file():
        result = json.loads(path.read_text())
    else:
        result = _answer(question)
        write_json(path, result)
    if "refusal" in result:
        raise ValueError(f"The compiler refuses the program: {result['refusal']}")
    return result


def _answer(question: Question) -> dict[str, Any]:
    try:
        return answer(question)
    except jax.errors.JaxRuntimeError as error:
        return {"refusal": first_line(error)}


def is_cached(question: Question) -> bool:
    """Whether a question was answered before."""
    return (CACHE / f"{digest(question)}.json").is_file()


def digest(question: Question) -> str:
    """Changes with the question, this package and the compiler.

    Raises:
      ValueError: there is no compiler.
    """
    found = hashlib.sha256(libtpu_version().encode())
    found.update(configs.to_json(question.config).encode())
    found.update(repr((question.target, question.clips)).encode())
    for name in PACKAGES:
        found.update(f"{name} {metadata.version(name)}".encode())
    found.update(os.environ.get(VARIABLE, "").encode())
    for path in sorted(PACKAGE.rglob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()[:32]
