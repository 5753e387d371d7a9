"""Collectives of a program: device groups, bytes, and times on the chips' links.

Times assume a ring or torus algorithm that uses every link at its full rate. Latency,
which matters for small arrays only, is not counted.
"""

import dataclasses
import itertools
import math
import re
from collections.abc import Mapping

import numpy as np

from snapvideo_jax.parallel.chips import Chip

OPS = {
    "all-gather": 1,
    "all-reduce": 2,
    "all-to-all": 1,
    "collective-broadcast": 1,
    "collective-permute": 1,
    "ragged-all-to-all": 1,
    "reduce-scatter": 1,
}
"""Names of collectives, and the number of times that each sends its bytes."""

Groups = tuple[tuple[int, ...], ...]


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective of a program over all its runs in a step.

    Attributes:
      op: one of `OPS`.
      dtype: of the elements.
      bytes: of the whole array in one run: the result of an all-gather, the operand of
        all others.
      group: number of devices that participate together.
      axis: the mesh axes in which they differ, for example ``"data+fsdp"``; empty
        without a mesh.
      slices: slices that a group spans.
      count: runs in a step.
      overlapped: whether it runs during computation.
      seconds: of all its runs.
      name, op_name: of the instruction, and of the JAX operation it comes from.
      channel: shared by all fusions of one transfer; None for other collectives.
    """

    op: str
    dtype: str
    bytes: float
    group: int
    axis: str
    slices: int
    count: int
    overlapped: bool
    seconds: float
    name: str
    op_name: str
    channel: int | None = None


@dataclasses.dataclass(frozen=True)
class Network:
    """The links between chips, and the placement of a program's devices on them.

    Attributes:
      mesh: sizes of the mesh axes by name, outermost first, to name the axis of a
        group; their product is the number of devices.
      links: links that a group uses at once, by the name of its axis; by default both
        directions of all dimensions of the torus.
      slices: equal blocks of consecutive devices that are connected by DCN only, as
        where the outermost mesh axis spans slices.
      programs: number of slices that run one program each and exchange data through the
        host; ``devices``, ``mesh`` and ``slices`` are then those of one.
      outer: the mesh axis across them.
    """

    chip: Chip
    devices: int
    mesh: Mapping[str, int]
    links: Mapping[str, int]
    slices: int = 1
    programs: int = 1
    outer: str = ""

    @classmethod
    def of(cls, chip: Chip, devices: int, mesh, links, slices: int) -> "Network":
        """The network of a program for ``devices``, all or those of one slice.

        Raises:
          ValueError: mesh and slices match neither all devices nor those of a slice.
        """
        if slices == 1 or math.prod(mesh.values()) != devices * slices:
            return cls(chip, devices, mesh, links, slices)
        outer, size = next(iter(mesh.items()))
        within = {**mesh, outer: size // slices}
        return cls(chip, devices, within, links, programs=slices, outer=outer)

    def __post_init__(self):
        if self.mesh and math.prod(self.mesh.values()) != self.devices:
            raise ValueError(
                f"mesh={dict(self.mesh)} has {math.prod(self.mesh.values())} devices, "
                f"but the program is for {self.devices}."
            )
        if self.devices % self.slices:
            raise ValueError(
                f"slices={self.slices} does not divide the {self.devices} devices of "
                "the program."
            )

    def axis(self, groups: Groups) -> str:
        """The mesh axes in which the devices of a group differ."""
        if not self.mesh:
            return ""
        places = np.unravel_index(np.array(groups[0]), tuple(self.mesh.values()))
        differ = [np.ptp(place) > 0 for place in places]
        return "+".join(itertools.compress(self.mesh, differ))

    def reach(self, groups: Groups) -> int:
        """Number of slices that a group spans."""
        block = self.devices // self.slices
        return max(len({device // block for device in group}) for group in groups)

    def seconds(self, op: str, size: float, groups: Groups) -> float:
        """Time of one run: first within slices, then across them.

        Args:
          op: one of `OPS`.
          size: bytes, as in `Collective`.
          groups: of devices that participate together.
        """
        group, slices = len(groups[0]), self.reach(groups)
        inside = group // slices
        chip, times = self.chip, OPS[op]
        if op == "collective-permute":  # Each device sends to one other.
            rate = chip.dcn_gbps if slices > 1 else chip.ici_gbps
            return size / (rate * 1e9) if group > 1 else 0.0
        links = self.links.get(self.axis(groups), 2 * chip.torus_dims)
        near = times * size * (inside - 1) / inside / (links * chip.ici_gbps * 1e9)
        far = self.far_seconds(op, size, slices)
        if op.endswith("all-to-all"):
            # Half of all bytes must cross the middle of the torus.
            side = inside ** (2 / links)
            near = max(near, size * side / (8 * chip.ici_gbps * 1e9) * (inside > 1))
            return near + far
        # All chips of a slice share the transfer to the other slices.
        return near + far / inside

    def far_seconds(self, op: str, size: float, slices: int) -> float:
        """Time in which every chip sends ``size`` bytes to its counterparts in other
        slices, through its share of the host's network cards."""
        share = (slices - 1) / slices
        return OPS[op] * size * share / (self.chip.dcn_gbps * 1e9)


def groups_of(rest: str, devices: int) -> Groups:
    """The groups of devices of a collective, from its attributes.

    Args:
      rest: text with ``replica_groups`` or ``source_target_pairs``.
      devices: of the program; one group where none is written.

    Raises:
      ValueError: the groups are in an unknown form.
    """
    pairs = re.search(r"source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}", rest)
    if pairs:
        return _cycles(pairs.group(1))
    form = r"replica_groups=(mesh\[.*?\{[^}]*\}|.*?)(?:, [a-z_]+=|$)"
    found = re.search(form, rest)
    text = found.group(1) if found else "{}"
    if text == "{}":
        return (tuple(range(devices)),)
    if text.startswith("{{"):
        rows = re.findall(r"\{([\d,]+)\}", text)
        return tuple(tuple(int(n) for n in row.split(",")) for row in rows)
    if text.startswith("mesh["):
        return _along_mesh(text)
    if re.match(r"\[[\d,]+\]<=\[", text):
        return _rows(_iota(text))
    raise ValueError(
        f"replica_groups={text} is in an unknown form; extend groups_of to parse it."
    )


def _cycles(pairs: str) -> Groups:
    """Chains and rings of devices that send to the next."""
    target = dict((int(a), int(b)) for a, b in re.findall(r"\{(\d+),(\d+)\}", pairs))
    groups = []
    # Chains first, from their starts; the remaining pairs form rings.
    for start in [*sorted(set(target) - set(target.values())), *sorted(target)]:
        group = []
        while start in target:
            group.append(start)
            start = target.pop(start)
        if group:
            groups.append(tuple(dict.fromkeys([*group, start])))
    return tuple(groups)


def _iota(text: str) -> np.ndarray:
    """The array of ``[2,4]<=[4,2]T(1,0)``: shape, source, transpose."""
    shape, source, order = re.match(
        r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text
    ).groups()
    numbers = np.arange(math.prod(_ints(source))).reshape(_ints(source))
    if order:
        numbers = numbers.transpose(_ints(order))
    return numbers.reshape(_ints(shape))


def _along_mesh(text: str) -> Groups:
    """Groups of ``mesh['a'=4,'b'=2] {'b'}``; an axis may be a part: ``'a':(2)2``."""
    sizes, order, chosen = re.match(
        r"mesh\[([^\]]*)\](.*?) ?\{([^}]*)\}", text
    ).groups()
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", sizes)}
    ids = re.search(r"\[[\d,]+\]<=\[[\d,]+\](?:T\([\d,]+\))?", order)
    numbers = _iota(ids.group()) if ids else np.arange(math.prod(sizes.values()))
    # ``device_ids=([2,64]T(1,0))``: devices numbered in another order of the axes.
    transposed = re.search(r"\(\[([\d,]+)\]T\(([\d,]+)\)\)", order)
    if transposed:
        shape, axes = _ints(transposed[1]), _ints(transposed[2])
        numbers = numbers.reshape(shape).transpose(axes)
    parts = {name: (1, size, 1) for name, size in sizes.items()}
    for name, before, size in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", chosen):
        if size:
            rest = sizes[name] // (int(before) * int(size))
            parts[name] = (int(before), int(size), rest)
    numbers = numbers.reshape([size for part in parts.values() for size in part])
    middle = {name: 3 * i + 1 for i, name in enumerate(parts)}
    along = [middle[name] for name in re.findall(r"'([^']+)'", chosen)]
    across = [i for i in range(numbers.ndim) if i not in along]
    count = math.prod(numbers.shape[i] for i in along)
    return _rows(numbers.transpose(across + along).reshape(-1, count))


def _ints(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))


def _rows(numbers: np.ndarray) -> Groups:
    return tuple(tuple(row) for row in numbers.tolist())
