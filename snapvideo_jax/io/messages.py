"""Phrases that the error messages and reports of several modules share."""

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """The end of a message about an unknown name, for example "did you mean 'heun'?".

    Args:
      name: the unknown name.
      known: names that are valid.
      otherwise: returned where no known name is close; by default it lists them all.
    """
    known = [*known]
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    return otherwise or f"use one of {', '.join(known)}."


def human_bytes(size: float, digits: int = 3) -> str:
    """A number of bytes in MB, GB or TB, for example "12.3 MB"; 1 MB is 1e6 bytes.

    Args:
      size: bytes.
      digits: significant digits.
    """
    for unit, name in ((1e6, "MB"), (1e9, "GB")):
        if abs(size) < 999.5 * unit:
            return f"{size / unit:.{digits}g} {name}"
    return f"{size / 1e12:,.{digits}g} TB"
