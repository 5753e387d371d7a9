"""Comparison of settings when a command resumes in a folder that it wrote before."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from snapvideo_jax.io.files import write_json


def begin(
    path: Path,
    settings: Mapping[str, Any],
    where: str,
    ignored: Callable[[str], bool] = lambda name: False,
    is_writer: bool = True,
) -> None:
    """Writes the settings of a new run; checks those of a run that resumes.

    Args:
      path: JSON file of the settings.
      settings, where, ignored: as for `check_same`.
      is_writer: False only checks.

    Raises:
      ValueError: as `check_same`.
    """
    if path.is_file():
        check_same(settings, json.loads(path.read_bytes()), where, ignored=ignored)
    elif is_writer:
        write_json(path, settings)


def check_same(
    ours: Mapping[str, Any],
    theirs: Mapping[str, Any],
    where: str,
    cure: str = "use another folder, or those settings",
    ignored: Callable[[str], bool] = lambda name: False,
) -> None:
    """Asserts that a run resumes with the settings that it was begun with.

    Args:
      ours: settings of this run, of values that JSON can hold.
      theirs: those that it was begun with, as JSON returns them.
      where: names the folder or file in the error.
      cure: advice in the error.
      ignored: True for a field, by its name with dots, that may differ.

    Raises:
      ValueError: names up to five fields that differ, with both values.
    """
    differing = [
        f"{name}={value!r} (was {before!r})"
        for name, value, before in differences(json.loads(json.dumps(ours)), theirs)
        if not ignored(name)
    ]
    if differing:
        named = ", ".join(differing[:5])
        raise ValueError(f"{where} was begun with other settings: {named}; {cure}.")


def differences(
    ours: Mapping[str, Any], theirs: Mapping[str, Any]
) -> list[tuple[str, Any, Any]]:
    """Fields that differ, by their names joined with dots: name, our and their value.

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
