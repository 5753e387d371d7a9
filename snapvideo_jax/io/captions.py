"""Lines of captions.jsonl: their fields and how they are checked."""

from collections.abc import Mapping
from typing import Any, Literal

Kind = Literal["video", "image"]
KINDS: tuple[Kind, ...] = ("video", "image")
Fields = Mapping[str, Any]
"""What is said of a file, by name."""


def check_line(entry: Any) -> None:
    """Refuses a line of captions.jsonl that makes no sense.

    Raises:
        ValueError: tells what it has and what was wanted, as in "has file=None, ...".
    """
    fields = entry if isinstance(entry, dict) else {}
    for key in ("file", "type"):
        if not isinstance(fields.get(key), str):
            raise ValueError(f"has {key}={fields.get(key)!r}, wanted a string")
    alternatives(fields)
    if entry["type"] not in KINDS:
        raise ValueError(f"has type={entry['type']!r}; use 'video' or 'image'")


def alternatives(fields: Fields) -> tuple[str, ...]:
    """All captions of a file: ``caption`` and those in the list ``captions``, once.

    Raises:
        ValueError: it has neither, or they are no texts.
    """
    listed = fields.get("captions")
    if listed is None:
        listed = []
    elif not isinstance(listed, list) or not all(isinstance(x, str) for x in listed):
        raise ValueError(f"has captions={listed!r}, wanted a list of strings")
    first = fields.get("caption")
    if not isinstance(first, str) and (first is not None or not listed):
        raise ValueError(f"has caption={first!r}, wanted a string")
    return tuple(dict.fromkeys(listed if first is None else [first, *listed]))
