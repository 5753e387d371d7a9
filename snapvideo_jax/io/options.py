"""Numbers on the command line, checked before any work."""

from collections.abc import Mapping

SMALL_NOISE = 0.1
"""Default standard deviation of the noise in an upsampler's small clip [C]."""


def check_least(options, least: Mapping[str, float]) -> None:
    """Refuses options that are too small; None passes.

    Args:
      options: an object with the options as attributes.
      least: their smallest values, by name.

    Raises:
      ValueError: names the first one.
    """
    for name, smallest in least.items():
        value = getattr(options, name, None)
        if value is not None and value < smallest:
            raise ValueError(f"--{name}={value} is too small; use {smallest} or more.")


def numbers(text: str) -> tuple[float, ...]:
    """Numbers with commas between."""
    return tuple(map(float, text.split(",")))


def part_of(text: str) -> tuple[int, int]:
    """ "0/4" is the first of four parts.

    Raises:
      ValueError: it is none.
    """
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal()) or not (
        int(number) < int(count)
    ):
        raise ValueError(f"--part={text} is no part; use I/N, as 0/4 to 3/4.")
    return int(number), int(count)


def check_step_seconds(arguments) -> None:
    """Refuses a --step_seconds that is no time.

    Raises:
      ValueError: it is given, and not above 0.
    """
    seconds = arguments.step_seconds
    if seconds is not None and not seconds > 0:
        raise ValueError(f"--step_seconds={seconds} is no time; use one above 0.")
