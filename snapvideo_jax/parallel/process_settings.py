"""Which of how many processes this one is, according to options and variables."""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

SETTINGS = {
    "coordinator": "HOST:PORT of process 0, the same for all processes",
    "process_count": "the number of processes, the same for all",
    "process_index": "the number of this process, from 0",
}
"""The options, and variables named SNAPVIDEO_ and the option in capitals."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProcessOptions:
    """How this process joins the other processes of a run.

    A field that is None is read from its variable, such as SNAPVIDEO_PROCESS_COUNT;
    if that is not set either, JAX recognizes Cloud TPU pods, GKE, SLURM and Open MPI.

    Attributes:
      coordinator: HOST:PORT of process 0, the same for all processes.
      process_count: number of processes, the same for all.
      process_index: number of this process, from 0.
      connect_seconds: longest wait for the other processes at the start, 300 s where
        no variable is set.
    """

    coordinator: str | None = None
    process_count: int | None = None
    process_index: int | None = None
    connect_seconds: int | None = None


class ProcessSettings(NamedTuple):
    """The address of process 0, the number of processes, and the index of this one."""

    coordinator: str
    count: int
    index: int


SINGLE_PROCESS = ProcessSettings("", 1, 0)


def settings(
    options: ProcessOptions, environ: Mapping[str, str]
) -> ProcessSettings | None:
    """The settings that options (first) and variables give; None where none are set.

    One process needs no coordinator: ``SNAPVIDEO_PROCESS_COUNT=1`` alone makes a
    process run by itself, also inside a cluster.

    Raises:
      ValueError: names the setting that is wrong or missing.
    """
    found = {name: setting(name, options, environ) for name in SETTINGS}
    given = [each for each in found.values() if each]
    if not given:
        return None
    count, index = found["process_count"], found["process_index"]
    size = whole_number(count, least=1) if count else None
    if size is not None and index and whole_number(index, least=0) >= size:
        raise ValueError(
            f"{'='.join(index)} is not one of the {size} processes; use 0 to "
            f"{size - 1}."
        )
    if size == 1:
        return SINGLE_PROCESS
    for name, meaning in SETTINGS.items():
        if not found[name]:
            raise ValueError(
                f"{'='.join(given[0])} is set, but SNAPVIDEO_{name.upper()} (or "
                f"--{name}) is missing; set it to {meaning}."
            )
    _check_address(found["coordinator"])
    return ProcessSettings(found["coordinator"][1], size, int(index[1]))


def setting(
    name: str, options: ProcessOptions, environ: Mapping[str, str]
) -> tuple[str, str] | None:
    """The option or variable that sets ``name``, and its text; None if none does."""
    variable = f"SNAPVIDEO_{name.upper()}"
    if (value := getattr(options, name)) is not None:
        return f"--{name}", str(value)
    return (variable, environ[variable]) if environ.get(variable) else None


def whole_number(setting: tuple[str, str], least: int) -> int:
    """The value of a setting.

    Raises:
      ValueError: it is not a whole number of at least ``least``.
    """
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
