"""Types of arguments: each turns a text into a checked value, or says what would do."""

import argparse
from collections.abc import Callable
from pathlib import Path


def integer(least: int) -> Callable[[str], int]:
    """Whole numbers from ``least``."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"{text!r} is not a whole number; use {least} or more."
            ) from None
        if value < least:
            raise argparse.ArgumentTypeError(
                f"{value} is too small; use {least} or more."
            )
        return value

    return parse


def number(
    least: float | None = None, above: float | None = None, most: float | None = None
) -> Callable[[str], float]:
    """Numbers from ``least``, or above ``above``, up to ``most``; NaN is none."""
    bounds = []
    if least is not None:
        bounds.append(f"at least {least:g}")
    if above is not None:
        bounds.append(f"above {above:g}")
    if most is not None:
        bounds.append(f"at most {most:g}")
    wanted = " and ".join(bounds) or "a number"

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"{text!r} is not a number; use {wanted}."
            ) from None
        inside = (
            value == value
            and (least is None or value >= least)
            and (above is None or value > above)
            and (most is None or value <= most)
        )
        if not inside:
            raise argparse.ArgumentTypeError(f"{text} is out of range; use {wanted}.")
        return value

    return parse


def several(kind: Callable = str) -> Callable[[str], tuple]:
    """Values of a type, separated by commas."""

    def parse(text: str) -> tuple:
        try:
            return tuple(kind(item.strip()) for item in text.split(","))
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"{text!r} is not a list of values separated by commas."
            ) from None

    return parse


def part(text: str) -> tuple[int, int]:
    """ "0/4" is the first of four parts."""
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal()) or not (
        int(index) < int(count)
    ):
        raise argparse.ArgumentTypeError(
            f"{text} is not a part; use I/N, from 0/4 to 3/4 for four parts."
        )
    return int(index), int(count)


def path(text: str) -> Path:
    """A path, with ~ expanded."""
    return Path(text).expanduser()
