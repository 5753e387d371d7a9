"""How a state is divided over a mesh: refused where it makes no sense, and reported.

`checked_shardings` is what training and plans place their state by. `report` writes an
array's layout behind its name, logical axes first and mesh axes where they divide:

    blocks/global_*/feed_forward/hidden/kernel[blocks, embed_fsdp, mlp]
"""

import collections
import dataclasses
import re
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding

from snapvideo_jax.io.messages import human_bytes
from snapvideo_jax.parallel.sharding import Rules, mesh_axes, state_shardings

REPLICATED_SHARE = 0.02
"""Most bytes of the parameters that every device of a mesh may hold alike."""
MIN_SHARE_TO_SHARD = 0.01
"""Least share of these bytes for which one parameter has to be divided where it can."""
MAX_REPLICATED_BYTES = 10e6
"""Bytes that may lie whole on every device whatever share of a small network they are:
biases and norms always do."""
MIN_SHARE_SHOWN = 0.002
"""Least share of a device's bytes for which `describe` has a line."""


@dataclasses.dataclass(frozen=True)
class ParameterLayout:
    """A parameter, and how it lies.

    Attributes:
      name: its path, as blocks/write/attention/out/kernel.
      axes: logical names.
      shape: of the whole.
      place: over the mesh.
      itemsize: bytes of an element.
    """

    name: str
    axes: tuple[str | None, ...]
    shape: tuple[int, ...]
    place: NamedSharding
    itemsize: int

    @property
    def bytes(self) -> int:
        return int(np.prod(self.shape)) * self.itemsize

    @property
    def bytes_per_device(self) -> int:
        return int(np.prod(self.place.shard_shape(self.shape))) * self.itemsize

    @property
    def divided_by(self) -> set[str]:
        """Mesh axes that divide it."""
        return {axis for entry in self.place.spec for axis in mesh_axes(entry)}

    def wanted_by(self, rules: Rules) -> set[str]:
        """Mesh axes of more than one device that the rules would divide it by."""
        wanted = {axis for entry in rules.spec(self.axes) for axis in mesh_axes(entry)}
        return {axis for axis in wanted if self.place.mesh.shape[axis] > 1}

    @property
    def layout(self) -> str:
        """Its logical axes, each with the mesh axes that divide it: [embed_fsdp]."""
        entries = zip(self.axes, self.place.spec, strict=True)
        parts = ["_".join([name or "_", *mesh_axes(entry)]) for name, entry in entries]
        return f"[{', '.join(parts)}]"


def checked_shardings(boxed, mesh: Mesh | AbstractMesh, rules: Rules = Rules()):  # noqa: B008
    """`state_shardings` of a state, where its parameters are divided sensibly.

    Raises:
      ValueError: parameters whose axes have no rule or collide; or what
        `check_divided` refuses.
    """
    check_rules(boxed.params, rules)
    places = state_shardings(boxed, mesh, rules)
    check_divided(list(parameter_layouts(boxed.params, places.params)), mesh, rules)
    return places


def parameter_layouts(boxed, places) -> Iterator[ParameterLayout]:
    """The parameters of a tree that carries logical axes, in their places."""
    pairs = zip(_boxes(boxed), jax.tree.leaves(places), strict=True)
    for (name, box), place in pairs:
        shape, itemsize = box.value.shape, box.value.dtype.itemsize
        yield ParameterLayout(name, box.names, shape, place, itemsize)


def check_rules(boxed, rules: Rules) -> None:
    """Refuses parameters that the rules cannot place on any mesh.

    A rule that no parameter uses is no error: one table serves all models.

    Raises:
      ValueError: names the five largest.
    """
    wrong = []
    for name, box in _boxes(boxed):
        try:
            rules.spec(box.names)
        except ValueError as error:
            size = int(np.prod(box.value.shape)) * box.value.dtype.itemsize
            wrong.append((size, f"{name}{list(box.names)}: {error}"))
    if wrong:
        raise ValueError(
            f"sharding.Rules cannot place {len(wrong)} parameters; the largest are "
            f"{_largest(wrong)}"
        )


def check_divided(
    params: list[ParameterLayout], mesh: Mesh | AbstractMesh, rules: Rules
):
    """Refuses a layout that leaves too much whole, or a mesh axis without work.

    Raises:
      ValueError: a mesh axis that should divide parameters divides none; a parameter
        of consequence is whole because its sizes do not divide; or more than
        `REPLICATED_SHARE` of the bytes are whole on every device of an fsdp mesh.
        Names the five largest.
    """
    wanted = [(each, each.wanted_by(rules)) for each in params]
    for axis in mesh.axis_names:
        left = [each for each, axes in wanted if axis in axes]
        if left and not any(axis in each.divided_by for each in left):
            raise ValueError(
                f"mesh.{axis}={mesh.shape[axis]} divides no parameter; the largest it "
                f"should divide are {_named(left)}. Use a mesh.{axis} that divides "
                "their axes, or 1."
            )
    total = sum(each.bytes for each in params)
    odd = [
        each
        for each, axes in wanted
        if axes
        and not each.divided_by
        and each.bytes > max(MIN_SHARE_TO_SHARD * total, MAX_REPLICATED_BYTES)
    ]
    if odd:
        axes = sorted(set().union(*(each.wanted_by(rules) for each in odd)))
        raise ValueError(
            f"The sizes of {len(odd)} parameters do not divide, and every device would "
            f"hold them whole; the largest are {_named(odd)}. Use another size of "
            f"{' or '.join(f'mesh.{axis}={mesh.shape[axis]}' for axis in axes)}."
        )
    whole = [each for each in params if not each.divided_by]
    size = sum(each.bytes for each in whole)
    if mesh.shape["fsdp"] > 1 and size > max(
        REPLICATED_SHARE * total, MAX_REPLICATED_BYTES
    ):
        raise ValueError(
            f"{size / total:.1%} of the parameters lie whole on every device, wanted "
            f"at most {REPLICATED_SHARE:.0%}; the largest are {_named(whole)}. Use a "
            "mesh.fsdp that divides their axes."
        )


def report(boxed, places) -> list[dict[str, Any]]:
    """How parameters lie, those first that take most of a device.

    Parameters whose names differ in numbers only, and which lie alike, are one row.
    """
    rows: dict[tuple, list[ParameterLayout]] = collections.defaultdict(list)
    for each in parameter_layouts(boxed, places):
        rows[re.sub(r"\d+", "*", each.name), each.layout, each.shape].append(each)
    return sorted(
        (
            {
                "name": name if len(alike) > 1 else alike[0].name,
                "layout": layout,
                "shape": list(shape),
                "count": len(alike),
                "bytes_per_device": sum(each.bytes_per_device for each in alike),
            }
            for (name, layout, shape), alike in rows.items()
        ),
        key=lambda row: -row["bytes_per_device"],
    )


def describe(rows: list[dict[str, Any]]) -> str:
    """A report as lines of text, the many small parameters as one line."""
    total = sum(row["bytes_per_device"] for row in rows)
    shown = [row for row in rows if row["bytes_per_device"] >= MIN_SHARE_SHOWN * total]
    lines = [
        f"{row['name']}{row['layout']}  {' x '.join(map(str, row['shape']))}"
        + (f"  {row['count']} times" if row["count"] > 1 else "")
        + f"  {human_bytes(row['bytes_per_device'])}"
        for row in shown
    ]
    small = rows[len(shown) :]
    if small:
        rest = sum(row["bytes_per_device"] for row in small)
        count = sum(row["count"] for row in small)
        lines.append(f"{count} smaller ones  {human_bytes(rest)}")
    count = sum(row["count"] for row in rows)
    return "\n".join([*lines, f"{count} parameters  {human_bytes(total)} in a device"])


def _boxes(tree) -> Iterator[tuple[str, nn.LogicallyPartitioned]]:
    """Parameters with their paths, all of which have to carry logical axes."""
    leaves = jax.tree_util.tree_leaves_with_path(
        tree, is_leaf=lambda leaf: isinstance(leaf, nn.LogicallyPartitioned)
    )
    for path, box in leaves:
        yield jax.tree_util.keystr(path, simple=True, separator="/"), box


def _named(params: list[ParameterLayout]) -> str:
    return _largest(
        [
            (
                each.bytes,
                f"{each.name}{each.layout} of {' x '.join(map(str, each.shape))} "
                f"({human_bytes(each.bytes)})",
            )
            for each in params
        ]
    )


def _largest(sized: list[tuple[int, str]]) -> str:
    """The five largest of (bytes, text)."""
    return ", ".join(text for _, text in sorted(sized, reverse=True)[:5])
