"""Trip counts of loops, which the text of a TPU program does not always contain.

`Scope` evaluates scalars that are known before the program runs; `trip_count` evaluates
the condition of a loop with them.
"""

import dataclasses
import re
from collections.abc import Callable

from snapvideo_jax.planning.forecast.hlo import Computation, Instruction, Program

_LONGEST_LOOP = 1_000_000


@dataclasses.dataclass(frozen=True)
class Carried:
    """The value at a path of a loop's carry before the body updates it."""

    start: tuple[int, ...]


Value = int | Carried | None
_SAME = {
    "bitcast", "broadcast", "convert", "copy", "copy-done", "copy-start",
    "get-tuple-element", "optimization-barrier", "reshape",
}  # fmt: skip
_ARITHMETIC: dict[str, Callable] = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "divide": lambda a, b: int(a / b) if b else None,
    "maximum": max,
    "minimum": min,
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "not": lambda a: int(not a),
    "select": lambda p, a, b: a if p else b,
    "clamp": lambda low, a, high: min(max(low, a), high),
}
_COMPARE: dict[str, Callable] = {
    "LT": lambda a, b: a < b,
    "LE": lambda a, b: a <= b,
    "GT": lambda a, b: a > b,
    "GE": lambda a, b: a >= b,
    "EQ": lambda a, b: a == b,
    "NE": lambda a, b: a != b,
}


@dataclasses.dataclass(frozen=True)
class Scope:
    """A computation at its call, with the values of its parameters.

    Attributes:
      argument: the value of a part of a parameter, from its number and the path to the
        part; None where it is not known before the program runs.
    """

    program: Program
    computation: Computation
    argument: Callable[[int, tuple[int, ...]], Value]

    @classmethod
    def entry(cls, program: Program) -> "Scope":
        return cls(program, program.entry, lambda number, path: None)

    def inside(self, caller: Instruction, name: str, first: int = 0) -> "Scope":
        """The computation ``name``, called with the operands from ``first`` on."""
        return Scope(
            self.program,
            self.program.computations[name],
            lambda number, path: self.value(caller.operands[first + number], path),
        )

    def body(self, loop: Instruction) -> "Scope":
        """The body of a loop in any iteration: only loop-invariant values are known."""
        body = self.program.computations[loop.called("body")[0]]
        return Scope(self.program, body, lambda number, path: self.after(loop, path))

    def after(self, loop: Instruction, path: tuple[int, ...]) -> Value:
        """The value of a part of a loop's carry, if it is loop-invariant."""
        body = self.program.computations[loop.called("body")[0]]
        start = Scope(self.program, body, lambda number, path: Carried(path[:1]))
        if start.value(body.root.name, path[:1]) != Carried(path[:1]):
            return None
        return self.value(loop.operands[0], path)

    def value(self, name: str, path: tuple[int, ...] = ()) -> Value:
        """The value of a scalar, or of the scalar at ``path`` in a tuple."""
        instruction = self.computation[name]
        opcode, operands = instruction.opcode, instruction.operands
        if opcode == "parameter":
            return self.argument(int(instruction.literal), path)
        if opcode == "constant":
            return _literal(instruction.literal)
        if opcode == "tuple":
            return self.value(operands[path[0]], path[1:]) if path else None
        if opcode == "while":
            return self.after(instruction, path)
        if opcode in ("fusion", "call"):
            scope = self.inside(instruction, instruction.called("calls", "to_apply")[0])
            return scope.value(scope.computation.root.name, path)
        if opcode == "get-tuple-element":
            path = (int(instruction.attribute("index")), *path)
        if opcode in _SAME:
            return self.value(operands[0], path)
        if opcode == "compare":
            function = _COMPARE[instruction.attribute("direction")]
        else:
            function = _ARITHMETIC.get(opcode)
        if function is None:
            return None
        values = [self.value(operand) for operand in operands]
        known = all(isinstance(value, int) for value in values)
        return function(*values) if known else None


def trip_count(loop: Instruction, scope: Scope) -> int:
    """The trip count of a loop, from the compiler's annotation or its condition.

    The condition is evaluated with the counters it reads, from their initial values
    until it is false; these and their updates must be known before the program runs.

    Args:
      loop: a while instruction.
      scope: the computation that contains it.

    Raises:
      ValueError: the count depends on data, or the loop does not end.
    """
    known = loop.number("known_trip_count")
    if known is not None:
        return known
    called = [loop.called(name)[0] for name in ("condition", "body")]
    condition, body = (scope.program.computations[name] for name in called)
    read: set[tuple[int, ...]] = set()
    now: dict[tuple[int, ...], Value] = {}

    def argument(number, path):
        read.add(path[:1])
        return now.get(path[:1])

    condition_scope = Scope(scope.program, condition, argument)
    body_scope = Scope(scope.program, body, argument)
    # The counters that the condition reads, then those that update these.
    condition_scope.value(condition.root.name)
    while set(now) != read:
        now.update(dict.fromkeys(read))
        for start in tuple(read):
            body_scope.value(body.root.name, start)
    now.update({start: scope.value(loop.operands[0], start) for start in read})

    for count in range(_LONGEST_LOOP):
        holds = condition_scope.value(condition.root.name)
        if holds is None:
            raise ValueError(
                f"The trip count of {loop.name} ({loop.op_name}) is unknown: its "
                "condition depends on more than counters with constant starts and "
                f"steps. Pass trips={{{loop.name!r}: count}}."
            )
        if not holds:
            return count
        now.update({start: body_scope.value(body.root.name, start) for start in read})
    raise ValueError(
        f"{loop.name} ({loop.op_name}) runs {_LONGEST_LOOP:,} times or more."
    )


def _literal(text: str) -> int | None:
    if text in ("true", "false"):
        return int(text == "true")
    return int(text) if re.fullmatch(r"-?\d+", text) else None
