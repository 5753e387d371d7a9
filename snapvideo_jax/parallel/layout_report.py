"""The layout of a state on a mesh: its checks and its report.

Training and plans shard their state by `checked_shardings`. `report` appends to the
name of an array its logical axes, each with the mesh axes that shard it:

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
"""Largest share of the parameters' bytes that may be replicated on an fsdp mesh."""
MIN_SHARE_TO_SHARD = 0.01
"""Share of these bytes from which a parameter must be sharded if its rules say so."""
MAX_REPLICATED_BYTES = 10e6
"""Bytes that may always be replicated, whatever their share of a small network, such as
biases and norms."""
MIN_SHARE_SHOWN = 0.002
"""Share of a device's bytes from which `describe` lists a parameter."""


@dataclasses.dataclass(frozen=True)
class ParameterLayout:
    """The layout of a parameter.

    Attributes:
      name: its path, for example blocks/write/attention/out/kernel.
      axes: logical names.
      shape: of the whole array.
      sharding: on the mesh.
      itemsize: bytes of an element.
    """

    name: str
    axes: tuple[str | None, ...]
    shape: tuple[int, ...]
    sharding: NamedSharding
    itemsize: int

    @property
    def bytes(self) -> int:
        return int(np.prod(self.shape)) * self.itemsize

    @property
    def bytes_per_device(self) -> int:
        return int(np.prod(self.sharding.shard_shape(self.shape))) * self.itemsize

    @property
    def sharded_by(self) -> set[str]:
        """Mesh axes that shard it."""
        return {axis for entry in self.sharding.spec for axis in mesh_axes(entry)}

    def wanted_by(self, rules: Rules) -> set[str]:
        """Mesh axes of more than one device by which the rules would shard it."""
        wanted = {axis for entry in rules.spec(self.axes) for axis in mesh_axes(entry)}
        return {axis for axis in wanted if self.sharding.mesh.shape[axis] > 1}

    @property
    def layout(self) -> str:
        """Its logical axes, each with the mesh axes that shard it: [embed_fsdp]."""
        entries = zip(self.axes, self.sharding.spec, strict=True)
        parts = ["_".join([name or "_", *mesh_axes(entry)]) for name, entry in entries]
        return f"[{', '.join(parts)}]"


def checked_shardings(boxed, mesh: Mesh | AbstractMesh, rules: Rules = Rules()):  # noqa: B008
    """`state_shardings` of a state, after `check_rules` and `check_sharded`.

    Raises:
      ValueError: as these two.
    """
    check_rules(boxed.params, rules)
    shardings = state_shardings(boxed, mesh, rules)
    layouts = list(parameter_layouts(boxed.params, shardings.params))
    check_sharded(layouts, mesh, rules)
    return shardings


def parameter_layouts(boxed, shardings) -> Iterator[ParameterLayout]:
    """The layouts of the parameters of a tree that carries logical axes."""
    pairs = zip(_boxes(boxed), jax.tree.leaves(shardings), strict=True)
    for (name, box), sharding in pairs:
        shape, itemsize = box.value.shape, box.value.dtype.itemsize
        yield ParameterLayout(name, box.names, shape, sharding, itemsize)


def check_rules(boxed, rules: Rules) -> None:
    """Checks that the rules cover all parameters, whatever the mesh.

    Unused rules are not an error: all models share one table.

    Raises:
      ValueError: the axes of parameters have no rule or collide; names the five
        largest parameters.
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
            f"sharding.Rules cannot shard {len(wrong)} parameters; the largest are "
            f"{_largest(wrong)}"
        )


def check_sharded(
    params: list[ParameterLayout], mesh: Mesh | AbstractMesh, rules: Rules
):
    """Checks that mesh axes are used, and that not too much is replicated.

    Raises:
      ValueError: a mesh axis that should shard parameters shards none; a large
        parameter is replicated because its sizes do not divide; or more than
        `REPLICATED_SHARE` of the bytes are replicated on an fsdp mesh. Names the five
        largest parameters.
    """
    wanted = [(each, each.wanted_by(rules)) for each in params]
    for axis in mesh.axis_names:
        left = [each for each, axes in wanted if axis in axes]
        if left and not any(axis in each.sharded_by for each in left):
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
        and not each.sharded_by
        and each.bytes > max(MIN_SHARE_TO_SHARD * total, MAX_REPLICATED_BYTES)
    ]
    if odd:
        axes = sorted(set().union(*(each.wanted_by(rules) for each in odd)))
        raise ValueError(
            f"The sizes of {len(odd)} parameters do not divide, so that they would be "
            f"replicated; the largest are {_named(odd)}. Use another size of "
            f"{' or '.join(f'mesh.{axis}={mesh.shape[axis]}' for axis in axes)}."
        )
    whole = [each for each in params if not each.sharded_by]
    size = sum(each.bytes for each in whole)
    if mesh.shape["fsdp"] > 1 and size > max(
        REPLICATED_SHARE * total, MAX_REPLICATED_BYTES
    ):
        raise ValueError(
            f"{size / total:.1%} of the parameters are replicated on every device, "
            f"wanted at most {REPLICATED_SHARE:.0%}; the largest are {_named(whole)}. "
            "Use a mesh.fsdp that divides their axes."
        )


def report(boxed, shardings) -> list[dict[str, Any]]:
    """The layouts of parameters, largest on a device first.

    Parameters of equal layout whose names differ only in numbers share a row.
    """
    rows: dict[tuple, list[ParameterLayout]] = collections.defaultdict(list)
    for each in parameter_layouts(boxed, shardings):
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
    """A report as text; all small parameters share one line."""
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
    """Parameters with their paths; all must carry logical axes."""
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
