"""Sections of a config: dataclasses to ConfigDicts of their fields, and back."""

import dataclasses
from collections.abc import Iterable
from typing import Any

from ml_collections import ConfigDict

from snapvideo_jax.io.messages import did_you_mean
from snapvideo_jax.models import MODELS
from snapvideo_jax.step import Training

DERIVED = {
    **dict.fromkeys(
        MODELS.values(),
        ("frames", "height", "width", "further_sizes", "parent", "name"),
    ),
    Training: ("videos", "images"),
}
"""Fields that `build` derives from the data section, so that they cannot disagree."""


def section(kind: type, **overrides) -> ConfigDict:
    """A ConfigDict of all fields of ``kind``, with their defaults or ``overrides``.

    Raises:
      ValueError: a name is not a field of ``kind``.
    """
    fields = {
        field.name: ConfigDict() if "of" in field.metadata else field.default
        for field in dataclasses.fields(kind)
        if field.name not in DERIVED.get(kind, ())
    }
    for name in overrides:
        if name not in fields:
            raise ValueError(unknown(name, fields, kind.__name__))
    return ConfigDict(fields | overrides)


def model_section(name: str, **overrides) -> ConfigDict:
    """The section of a model; ``name`` is a key of `snapvideo_jax.models.MODELS`."""
    config = section(MODELS[name], **overrides)
    config.name = name
    return config


def choose(table: dict[str, dict], name: str, key: str) -> dict:
    """A row of a table of sizes or variants.

    Raises:
      ValueError: ``key`` is not a row.
    """
    if key not in table:
        raise ValueError(
            f"config argument {name}={key!r} is unknown; use one of {sorted(table)}."
        )
    return table[key]


def parse_arg(arg: str | None, **defaults) -> ConfigDict:
    """``"size=500m,quick"`` -> values, of the types of the defaults.

    Raises:
      ValueError: an unknown name, or a value that does not have its default's type.
    """
    values = dict(defaults)
    for item in filter(None, (arg or "").split(",")):
        name, _, text = item.partition("=")
        if name not in defaults:
            raise ValueError(unknown(name, defaults, "the config's argument"))
        kind = type(defaults[name])
        try:
            values[name] = _flag(text) if kind is bool else kind(text)
        except ValueError:
            raise ValueError(
                f"config argument {name}={text!r} is not of type {kind.__name__}."
            ) from None
    return ConfigDict(values)


def _flag(text: str) -> bool:
    if text.lower() in ("", "true", "1"):
        return True
    if text.lower() in ("false", "0"):
        return False
    raise ValueError(text)


def construct(
    kind: type, config: ConfigDict, where: str, left_out: Iterable[str] = (), **derived
):
    """A dataclass or linen module from its section.

    Args:
      kind: the class. A field whose metadata has ``of`` holds objects of that class by
        their names.
      config: its fields.
      where: the section's name, for errors.
      left_out: fields that a section may not set.
      derived: values of those.

    Raises:
      ValueError: names the field, its value, and valid ones.
    """
    values = {name: _tuples(value) for name, value in config.items()}
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for name in values:
        if name not in fields.keys() - set(left_out):
            raise ValueError(unknown(name, fields, f"config.{where}"))
        if part := fields[name].metadata.get("of"):
            values[name] = _construct_parts(part, values[name], f"{where}.{name}")
        default = getattr(kind, name, None)
        if fields[name].type == tuple[int, ...]:  # of any length
            default = default[:1] * len(values[name])
        _check_tuple(f"{where}.{name}", values[name], default)
    return kind(**values, **derived)


def _construct_parts(kind: type, config: ConfigDict, where: str) -> dict[str, Any]:
    """Objects of one class by their names; errors include the name."""
    parts = {}
    for name, part in config.items():
        try:
            parts[name] = construct(kind, part, f"{where}.{name}")
        except ValueError as error:
            named = "" if f"{where}.{name}" in str(error) else f"{where}.{name}: "
            raise ValueError(f"{named}{error}") from error
    return parts


def _tuples(value: Any) -> Any:
    """Lists, as from JSON, as tuples, recursively."""
    if isinstance(value, list | tuple):
        return tuple(map(_tuples, value))
    return value


def _check_tuple(name: str, value: Any, default: Any) -> None:
    """Checks length and types of a tuple of numbers, which ConfigDict does not."""
    if not isinstance(default, tuple) or not default:
        return
    kinds = [(int, type(number)) for number in default]
    if len(value) != len(kinds) or not all(map(isinstance, value, kinds)):
        raise ValueError(
            f"{name}={value} is not {len(default)} numbers of type "
            f"{type(default[0]).__name__}; its default is {default}."
        )


def unknown(name: str, known: Iterable[str], where: str) -> str:
    """The message about a name that is not among those known, with the nearest."""
    hint = did_you_mean(name, known, f"it has {sorted(known)}.")
    return f"{where} has no field {name!r}; {hint}"
