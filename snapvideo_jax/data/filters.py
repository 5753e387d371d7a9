"""Filters of files by their metadata, such as ``aesthetic>=5``.

The metadata of a file are the keys of its line in captions.jsonl, of the header of its
record, or of its TFDS example. Rules are separated by commas, and all must hold:

    aesthetic>=5, text_share<0.05, codec!=mpeg4
"""

import operator
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from snapvideo_jax.io.captions import Fields

_SIGNS: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}
_OF_TEXT = ("==", "!=")
_RULE = re.compile(rf"(\w+)\s*({'|'.join(_SIGNS)})\s*([^\s<>=!].*)")


@dataclass(frozen=True)
class Filter:
    """One rule.

    field: name of the value that is compared; true and false are texts.
    sign: of the comparison.
    bound: a number or, with ``==`` and ``!=``, a text.
    """

    field: str
    sign: str
    bound: float | str

    def __str__(self) -> str:
        bound = self.bound if isinstance(self.bound, str) else f"{self.bound:g}"
        return f"{self.field}{self.sign}{bound}"

    def has_value(self, fields: Fields) -> bool:
        """Whether the file has a value that can be compared with the bound."""
        return self._value(fields) is not None

    def holds(self, fields: Fields) -> bool:
        """Whether a file passes the rule; a file without the value does not."""
        value = self._value(fields)
        return value is not None and _SIGNS[self.sign](value, self.bound)

    def reason(self, fields: Fields) -> str:
        """Why a file fails the rule, in a few words."""
        value, kind = fields.get(self.field), "number"
        if self.has_value(fields):
            return f"{self.field} is {value}, wanted {self}"
        if isinstance(self.bound, str):
            kind = "text"
        return f"{self.field} is {value!r}, not a {kind}, wanted {self}"

    def _value(self, fields: Fields) -> float | str | None:
        value = fields.get(self.field)
        if isinstance(value, bool):
            value = str(value).lower()
        wanted = str if isinstance(self.bound, str) else int | float
        return value if isinstance(value, wanted) else None


def parse(text: str, where: str) -> tuple[Filter, ...]:
    """The rules of a setting.

    Args:
        text: rules separated by commas; empty for none.
        where: name of the setting, for the error.

    Raises:
        ValueError: names the malformed rule.
    """
    return tuple(
        _parse_rule(rule.strip(), where) for rule in text.split(",") if rule.strip()
    )


def _parse_rule(rule: str, where: str) -> Filter:
    found = _RULE.fullmatch(rule)
    if not found:
        raise ValueError(
            f"{where} has the rule {rule!r}; write a field, one of "
            f"{' '.join(_SIGNS)} and a value, such as aesthetic>=5."
        )
    field, sign, bound = found.groups()
    try:
        return Filter(field, sign, float(bound))
    except ValueError:
        if sign in _OF_TEXT:
            return Filter(field, sign, bound)
        raise ValueError(
            f"{where} has the rule {rule!r}, but {bound!r} is not a number; texts are "
            f"compared by {' and '.join(_OF_TEXT)} only."
        ) from None


def first_broken(filters: Sequence[Filter], fields: Fields) -> Filter | None:
    """The first rule that a file fails; None where it passes all."""
    return next((rule for rule in filters if not rule.holds(fields)), None)


def select(
    filters: Sequence[Filter], files: Iterable[Fields], where: str
) -> tuple[Int[np.ndarray, "n"], str]:
    """The files that pass all rules.

    Args:
        filters: the rules.
        files: metadata of each file, in order.
        where: name of the collection of files, for the error.

    Returns:
        Indices of the files, and a summary of how many each rule drops.

    Raises:
        ValueError: no file passes; the message has the summary.
    """
    drops = {rule: [0, 0] for rule in filters}
    numbers, count = [], 0
    for count, fields in enumerate(files, start=1):
        rule = first_broken(filters, fields)
        if rule is None:
            numbers.append(count - 1)
            continue
        drops[rule][0] += 1
        drops[rule][1] += not rule.has_value(fields)
    summary = ", ".join(
        f"{rule} drops {dropped}" + (f" ({without} lack it)" if without else "")
        for rule, (dropped, without) in drops.items()
    )
    if count and not numbers:
        raise ValueError(
            f"filters keep none of {count} of {where}: {summary}; loosen them."
        )
    return np.asarray(numbers, np.int64), f"{len(numbers)} of {count} pass: {summary}"
