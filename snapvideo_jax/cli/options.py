"""From parsed arguments to the typed options of the function behind a verb."""

import argparse
import dataclasses
from typing import Any, TypeVar

Options = TypeVar("Options")


def options(kind: type[Options], arguments: argparse.Namespace, **more: Any) -> Options:
    """An options dataclass, its fields filled from the arguments of the same names.

    Args:
      kind: a frozen dataclass; arguments that it has no field for are left out.
      arguments: as parsed.
      more: fields that no argument has, or that take precedence over one.

    Raises:
      ValueError: the dataclass refuses a value.
    """
    names = {field.name for field in dataclasses.fields(kind)}
    given = {name: value for name, value in vars(arguments).items() if name in names}
    return kind(**given | more)
