"""Which process of how many this one is, as options and variables say."""

from collections.abc import Mapping
from typing import Any, NamedTuple

SETTINGS = {
    "coordinator": "HOST:PORT of process 0, the same for all processes",
    "process_count": "the number of processes, the same for all",
    "process_index": "the number of this process, from 0",
}
"""Options, and in capitals after SNAPVIDEO_ variables, that tell of the processes."""


class ProcessSettings(NamedTuple):
    """One process among those of a run, and where process 0 listens."""

    coordinator: str
    count: int
    index: int


SINGLE_PROCESS = ProcessSettings("", 1, 0)


def settings(
    options: Mapping[str, Any], environ: Mapping[str, str]
) -> ProcessSettings | None:
    """The place that options (first) and variables ask for, None where none do.

    One process needs no coordinator: ``SNAPVIDEO_PROCESS_COUNT=1`` alone makes a
    process that runs by itself, also in the middle of a cluster.

    Raises:
      ValueError: names the setting that is wrong or missing.
    """
    found = {name: setting(name, options, environ) for name in SETTINGS}
    given = {name: each for name, each in found.items() if each}
    if not given:
        return None
    count, index = found["process_count"], found["process_index"]
    size = whole_number(count, least=1) if count else None
    if size is not None and index and whole_number(index, least=0) >= size:
        raise ValueError(
            f"{'='.join(index)} is none of the {size} processes; use 0 to {size - 1}."
        )
    if size == 1:
        return SINGLE_PROCESS
    for name in SETTINGS:
        if name not in given:
            raise ValueError(
                f"{'='.join(next(iter(given.values())))} is set, but "
                f"SNAPVIDEO_{name.upper()} (or --{name}) is missing; set it to "
                f"{SETTINGS[name]}."
            )
    _check_address(found["coordinator"])
    return ProcessSettings(found["coordinator"][1], size, int(index[1]))


def setting(
    name: str, options: Mapping[str, Any], environ: Mapping[str, str]
) -> tuple[str, str] | None:
    """What the user calls a setting, and its text; None where it is not set."""
    variable = f"SNAPVIDEO_{name.upper()}"
    if options.get(name) is not None:
        return f"--{name}", str(options[name])
    return (variable, environ[variable]) if environ.get(variable) else None


def whole_number(setting: tuple[str, str], least: int) -> int:
    name, text = setting
    if not text.isdecimal() or int(text) < least:
        raise ValueError(
            f"{name}={text} is not a whole number of at least {least}; use {least} or "
            "more."
        )
    return int(text)


def _check_address(setting: tuple[str, str]) -> None:
    name, text = setting
    host, colon, port = text.rpartition(":")
    if not colon or not host:
        missing, example = ("host", f"10.0.0.1{text}") if colon else ("port", text)
        example += "" if colon else ":8476"
        raise ValueError(
            f"{name}={text} has no {missing}; use HOST:PORT, for example {example}."
        )
    if not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ValueError(f"{name}={text} has the port {port}; use 1 to 65535.")
