"""Settings of a run that goes on, beside those that it was begun with."""

from collections.abc import Iterator, Mapping
from typing import Any


def differences(
    ours: Mapping[str, Any], theirs: Mapping[str, Any]
) -> list[tuple[str, Any, Any]]:
    """Fields that differ, by their names joined with dots, and both values, by name.

    Args:
      ours, theirs: trees; a field that one of them lacks is None there.
    """
    ours, theirs = dict(_flat(ours)), dict(_flat(theirs))
    return [
        (name, ours.get(name), theirs.get(name))
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    ]


def _flat(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, Mapping):
        for name, value in tree.items():
            yield from _flat(value, f"{prefix}{name}.")
    else:
        yield prefix[:-1], tree
