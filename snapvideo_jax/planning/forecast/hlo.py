"""A parser for the text of a program that XLA has scheduled for a TPU.

The text, ``compiled.as_text()``, is a list of computations, one of which is the entry.
Each is a list of instructions in scheduled order, one of which is its root.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping

HBM = 0
"""Memory space of HBM; others (1: on-chip) are written ``S(n)``."""

_BITS = {"pred": 8, "token": 0, "opaque": 0}
_ARRAY = re.compile(r"([a-z]\w*)\[([^\]]*)\](\{[^}]*\})?")
_START = re.compile(r"  (ROOT )?%([\w.\-]+) = ")
_HEADER = re.compile(r"(ENTRY )?%([\w.\-]+) \(.*\{$")
_END = re.compile(r"\}(, execution_thread=.*)?$")
_OPERAND = re.compile(r"%([\w.\-]+)")


@dataclasses.dataclass(frozen=True)
class Array:
    """The type of an array and its memory space."""

    dtype: str
    dims: tuple[int, ...]
    space: int = HBM

    @property
    def size(self) -> int:
        return math.prod(self.dims)

    @property
    def bytes(self) -> float:
        """Bytes of the logical shape: padding to tiles is not counted."""
        bits = _BITS.get(self.dtype)
        if bits is None:
            bits = int(re.search(r"\d+", self.dtype).group())
        return self.size * bits / 8


Shape = Array | tuple
"""An array, or a tuple of shapes."""


def arrays(shape: Shape) -> Iterator[Array]:
    """All arrays of a shape, in order."""
    if isinstance(shape, Array):
        yield shape
    else:
        for part in shape:
            yield from arrays(part)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
      literal: the text in the parentheses where it is not operands: the value of a
        constant, the number of a parameter.
      rest: the text after the parentheses.
    """

    name: str
    opcode: str
    shape: Shape
    operands: tuple[str, ...]
    literal: str = ""
    rest: str = ""

    def attribute(self, name: str) -> str | None:
        """The text of ``value`` in ``name=value``, up to the next comma."""
        found = re.search(rf"(?:^|, ){name}=([^,]*)", self.rest)
        return found and found.group(1)

    def called(self, *names: str) -> tuple[str, ...]:
        """The computations that the attribute of the first of these names calls."""
        for name in names:
            found = re.search(rf"(?:^|, ){name}=(\{{[^}}]*\}}|%[\w.\-]+)", self.rest)
            if found:
                return tuple(_OPERAND.findall(found.group(1)))
        return ()

    @functools.cached_property
    def op_name(self) -> str:
        """The JAX operation that it comes from."""
        found = re.search(r'op_name="((?:[^"\\]|\\.)*)"', self.rest)
        return found.group(1) if found else ""

    def number(self, key: str) -> int | None:
        """The integer under ``key`` in the backend's JSON, None where there is none."""
        found = re.search(rf'"{key}":(?:\{{"n":)?"(\d+)"', self.rest)
        return int(found.group(1)) if found else None


@dataclasses.dataclass(frozen=True)
class Computation:
    """Instructions in scheduled order, and the root, which is the result."""

    name: str
    instructions: Mapping[str, Instruction]
    root: Instruction

    def __iter__(self) -> Iterator[Instruction]:
        return iter(self.instructions.values())

    def __getitem__(self, name: str) -> Instruction:
        return self.instructions[name]

    @functools.cached_property
    def parameters(self) -> dict[int, Instruction]:
        return {int(i.literal): i for i in self if i.opcode == "parameter"}

    @functools.cached_property
    def users(self) -> dict[str, list[tuple[Instruction, int]]]:
        """By name: the instructions that use it, and the position of the operand."""
        found = {name: [] for name in self.instructions}
        for instruction in self:
            for position, name in enumerate(instruction.operands):
                found[name].append((instruction, position))
        return found


@dataclasses.dataclass(frozen=True)
class Program:
    """All computations of a module, and the number of devices of one run."""

    computations: Mapping[str, Computation]
    entry: Computation
    devices: int


def parse(text: str) -> Program:
    """Parses ``compiled.as_text()``.

    Raises:
      ValueError: the text is not that of a scheduled program.
    """
    head = text[: text.find("\n")]
    if not head.startswith("HloModule") or "is_scheduled=true" not in head:
        raise ValueError(
            "The text is not a scheduled HLO module; pass compiled.as_text(), not the "
            "text of a lowered program."
        )
    computations, entry = {}, None
    name, lines = None, []
    for line in text.splitlines():
        if name is None:
            header = _HEADER.match(line)
            if header:
                name, lines = header.group(2), []
                entry = name if header.group(1) else entry
        elif _END.match(line):
            computations[name], name = _computation(name, lines), None
        elif _START.match(line):
            lines.append(line)
        elif lines:  # An attribute that holds line breaks.
            lines[-1] += line
    if entry is None:
        raise ValueError(
            "The HLO module has no ENTRY computation; its text is cut off."
        )
    counts = [
        re.search(rf"{key}=(\d+)", head) for key in ("num_partitions", "replica_count")
    ]
    devices = math.prod(int(count.group(1)) for count in counts if count)
    return Program(computations, computations[entry], devices)


def _computation(name: str, lines: list[str]) -> Computation:
    instructions, root = {}, None
    for line in lines:
        start = _START.match(line)
        instruction = _instruction(start.group(2), line[start.end() :])
        instructions[instruction.name] = instruction
        root = instruction if start.group(1) or root is None else root
    return Computation(name, instructions, root)


def _instruction(name: str, text: str) -> Instruction:
    shape, at = _shape(text, 0)
    opening = text.index("(", at)
    closing, depth = opening, 0
    for closing in range(opening, len(text)):
        depth += {"(": 1, ")": -1}.get(text[closing], 0)
        if depth == 0:
            break
    inside = text[opening + 1 : closing]
    opcode = text[at:opening].strip()
    operands = () if opcode == "constant" else tuple(_OPERAND.findall(inside))
    rest = text[closing + 1 :].removeprefix(", ")
    return Instruction(name, opcode, shape, operands, "" if operands else inside, rest)


def _shape(text: str, at: int) -> tuple[Shape, int]:
    """The shape at a position of the text, and the position after it."""
    if text[at] != "(":
        found = _ARRAY.match(text, at)
        return _array(found.group()), found.end()
    parts, at = [], at + 1
    while text[at] != ")":
        if text[at] in ", ":
            at += 1
        elif text.startswith("/*", at):
            at = text.index("*/", at) + 2
        else:
            part, at = _shape(text, at)
            parts.append(part)
    return tuple(parts), at + 1


@functools.cache
def _array(text: str) -> Array:
    dtype, dims, layout = _ARRAY.match(text).groups()
    space = re.search(r"S\((\d+)\)", layout or "")
    sizes = tuple(int(size.strip("<= ")) for size in dims.split(",") if size)
    return Array(dtype, sizes, int(space.group(1)) if space else HBM)
