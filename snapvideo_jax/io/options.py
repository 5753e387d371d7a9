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
