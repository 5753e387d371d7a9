"""Numbers on the command line, checked before any work."""

from collections.abc import Mapping


def check_least(arguments, least: Mapping[str, float]) -> None:
    """Refuses options that are too small; those that are not given are passed over.

    Args:
      arguments: parsed.
      least: smallest values of options, by name.

    Raises:
      ValueError: names the first one.
    """
    for name, smallest in least.items():
        value = getattr(arguments, name, None)
        if value is not None and value < smallest:
            raise ValueError(f"--{name}={value} is too small; use {smallest} or more.")


def numbers(text: str) -> tuple[float, ...]:
    """Numbers with commas between."""
    return tuple(map(float, text.split(",")))


def check_step_seconds(arguments) -> None:
    """Refuses a --step_seconds that is no time.

    Raises:
      ValueError: it is given, and not above 0.
    """
    seconds = arguments.step_seconds
    if seconds is not None and not seconds > 0:
        raise ValueError(f"--step_seconds={seconds} is no time; use one above 0.")
