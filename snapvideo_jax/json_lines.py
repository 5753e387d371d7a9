"""JSON as runs write it: a line for each entry, and no number that JSON cannot hold."""

import json
import math
from pathlib import Path
from typing import Any


def read(path: Path) -> list[Any]:
    """The entries of a file, of which none is there yet where there is no file.

    A last line without an end, which is still being written, is left out.
    """
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def finite(value: Any) -> Any:
    """A value of JSON, with null where a number is NaN or infinite."""
    if isinstance(value, dict):
        return {str(name): finite(each) for name, each in value.items()}
    if isinstance(value, list):
        return [finite(each) for each in value]
    is_finite = not isinstance(value, float) or math.isfinite(value)
    return value if is_finite else None
