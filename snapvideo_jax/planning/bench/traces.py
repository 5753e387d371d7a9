"""The time of a program by part, pass and kind of operation, from a profiler trace.

The trace has the time of each instruction; the compiled program has its opcode and its
``op_name``.
"""

import collections
import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from snapvideo_jax.planning.forecast import hlo
from snapvideo_jax.planning.forecast.scopes import part_of, pass_of

MATRIX, COLLECTIVE, MEMORY = "matrix products", "collectives", "copies and layout"
RANDOM, KERNEL, REST = "random bits", "kernels", "elementwise and sums"

_COLLECTIVES = re.compile(
    r"(all-reduce|all-gather|reduce-scatter|all-to-all|collective-\w+|ragged-\w+"
    r"|send|recv)(-start|-done|-update)?$"
)
_PRODUCTS = re.compile(r"gemm|matmul|cudnn|conv|onednn", re.IGNORECASE)
_MOVING = frozenset(
    "copy copy-start copy-done transpose bitcast slice dynamic-slice reshape pad "
    "dynamic-update-slice concatenate broadcast gather scatter".split()
)
_CONTAINERS = frozenset("while call conditional async-start async-done".split())
"""They only run other instructions, whose time is counted already."""


@dataclasses.dataclass(frozen=True)
class InstructionKind:
    """What one instruction of a compiled program computes.

    Attributes:
      part: of the network, as from `part_of`.
      pass_: of a step, as from `pass_of`.
      category: kind of operation.
    """

    part: str
    pass_: str
    category: str


def instructions(text: str) -> dict[str, InstructionKind]:
    """The instructions of a program by name, without those that only call others.

    Args:
      text: ``compiled.as_text()``.

    Raises:
      ValueError: the text is not a scheduled program.
    """
    program = hlo.parse(text)
    found = {}
    for computation in program.computations.values():
        for one in computation:
            if one.opcode in _CONTAINERS:
                continue
            inside = [
                inner.opcode
                for name in one.called("calls")
                if name in program.computations
                for inner in program.computations[name]
            ]
            kind = category(one.opcode, one.op_name, inside, one.rest)
            found[one.name] = InstructionKind(
                part_of(one.op_name), pass_of(one.op_name), kind
            )
    return found


def category(
    opcode: str, op_name: str, inside: Iterable[str] = (), rest: str = ""
) -> str:
    """The kind of operation of an instruction.

    Args:
      opcode, op_name: of the instruction.
      inside: opcodes of its fused instructions.
      rest: its attributes, with the target of a custom call.
    """
    inside, primitive = set(inside), op_name.rsplit("/", 1)[-1]
    if _COLLECTIVES.match(opcode):
        return COLLECTIVE
    if {"dot", "convolution"} & {opcode, *inside} or primitive == "dot_general":
        return MATRIX
    if opcode == "custom-call":
        target = re.search(r'custom_call_target="([^"]*)"', rest)
        return MATRIX if target and _PRODUCTS.search(target.group(1)) else KERNEL
    if "rng-bit-generator" in {opcode, *inside} or "random_bits" in op_name:
        return RANDOM
    moved = (inside or {opcode}) - {"parameter", "constant", "tuple"}
    return MEMORY if moved <= _MOVING else REST


def events(folder: Path) -> Iterator[tuple[str, float]]:
    """Name and nanoseconds of each instruction in a trace.

    A device has a separate plane; instructions of a CPU are in those of its threads.

    Raises:
      ValueError: the trace cannot be read.
    """
    try:
        from jax.profiler import ProfileData
    except ImportError as error:
        raise ValueError(
            "This JAX cannot read traces; use jax 0.10 or newer."
        ) from error
    files = sorted(folder.rglob("*.xplane.pb"))
    if not files:
        raise ValueError(f"--profile={folder}: the profiler wrote no trace there.")
    newest = max(file.parent for file in files)  # folders are named by date and time
    for file in newest.glob("*.xplane.pb"):
        planes = list(ProfileData.from_file(str(file)).planes)
        # libtpu, once loaded, adds an empty device plane to traces without a TPU.
        devices = [p for p in planes if p.name.startswith("/device:") and list(p.lines)]
        for plane in devices or planes:
            for line in plane.lines:
                yield from _events_of(line)


def _events_of(line) -> Iterator[tuple[str, float]]:
    for event in line.events:
        stats: Mapping[str, Any] = dict(event.stats)
        name = stats.get("hlo_op")
        if name is None and line.name == "XLA Ops":  # of a TPU, named by their text
            name = event.name.partition(" = ")[0]
        if name is not None:
            yield str(name).lstrip("%"), event.duration_ns


def tables(folder: Path, text: str, runs: int) -> dict[str, Any]:
    """Milliseconds of one run by part, by pass and by kind of operation.

    They add up to the time of instructions on all devices or threads: more than the
    wall-clock time where they ran in parallel, less where devices waited.

    Args:
      folder: of the trace.
      text: ``compiled.as_text()`` of the program.
      runs: of the program in the trace.

    Raises:
      ValueError: the trace cannot be read, or does not contain the program.
    """
    known = instructions(text)
    by = {name: collections.Counter() for name in ("part", "pass", "category")}
    for name, nanoseconds in events(folder):
        if (found := known.get(name)) is None:
            continue
        by["part"][found.part] += nanoseconds
        by["pass"][found.pass_] += nanoseconds
        by["category"][found.category] += nanoseconds
    if not by["part"]:
        raise ValueError(
            f"--profile={folder}: the trace names no instruction of the program, so "
            "there is no table; look at it with TensorBoard or Perfetto."
        )
    return {
        f"milliseconds_by_{name}": {key: ns / 1e6 / runs for key, ns in c.most_common()}
        for name, c in by.items()
    }


def describe(found: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The tables as lines of text."""
    lines = []
    for name, rows in found.items():
        total = sum(rows.values())
        lines.append(f"  time by {name.rsplit('_', 1)[-1]}, {total:.4g} ms of a run")
        lines += [
            f"    {key:<26}{value:>10.2f} ms {value / total:>7.1%}"
            for key, value in rows.items()
        ]
    return lines
