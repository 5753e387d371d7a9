"""The time of one step, from the program that is compiled for it.

Every instruction takes as long as its matrix products at 95 % of the peak, or its bytes
at 92 % of the memory's rate, whichever is longer; loops count as often as they run.
Collectives that nothing overlaps are added. What is not counted: vector work that the
memory does not hide, tiles that a product fills only in part, latency, waiting for one
another or the input. So the time is a lower end; `calibrated` says what published
measurements make of it. The compiler's own estimates, which are pessimistic about
vector work, make the upper end.
"""

import dataclasses
import itertools
import re
from collections.abc import Iterable, Mapping

from snapvideo_jax.parallel.chips import Chip
from snapvideo_jax.planning.forecast.collectives import (
    OPS,
    Collective,
    Network,
    groups_of,
)
from snapvideo_jax.planning.forecast.costs import (
    Kernels,
    instruction_cost,
    splash_kernels,
)
from snapvideo_jax.planning.forecast.hlo import Instruction, Program, arrays, parse
from snapvideo_jax.planning.forecast.loops import Scope, trip_count

MATMUL_SHARE = 0.95
"""Share of the peak that large matrix products are taken to reach."""

HBM_SHARE = 0.92
"""Share of its rate that memory is taken to reach."""

_FREE = {
    "add-dependency",
    "after-all",
    "async-done",
    "async-update",
    "bitcast",
    "call-done",
    "constant",
    "get-tuple-element",
    "optimization-barrier",
    "parameter",
    "recv",
    "tuple",
}
_COMPUTES = {"convolution", "custom-call", "dot", "fusion", "while"}
_FREE_CALLS = {
    "AllocateBuffer",
    "AssumeGatherIndicesInBound",
    "ConcatBitcast",
    "PrepareAsyncCallDone",
    "PrepareAsyncCallStart",
}


@dataclasses.dataclass(frozen=True)
class TimedInstruction:
    """One instruction of a program, with all its runs in a step.

    Attributes:
      name, op_name: the instruction, and the JAX operation it comes from.
      trips: runs in a step.
      seconds: of computation.
      cycle_seconds: as the compiler estimates it, where it does.
      flops: of matrix products.
      hbm_bytes: read and written.
      collective: what it sends, if it does; its time is not in ``seconds``.
    """

    name: str
    op_name: str
    trips: int = 1
    seconds: float = 0.0
    cycle_seconds: float = 0.0
    flops: float = 0.0
    hbm_bytes: float = 0.0
    collective: Collective | None = None

    def times(self, trips: int) -> "TimedInstruction":
        """This part of a loop that runs ``trips`` times."""
        sent = self.collective
        return dataclasses.replace(
            self,
            trips=self.trips * trips,
            seconds=self.seconds * trips,
            cycle_seconds=self.cycle_seconds * trips,
            flops=self.flops * trips,
            hbm_bytes=self.hbm_bytes * trips,
            collective=sent
            and dataclasses.replace(
                sent, count=sent.count * trips, seconds=sent.seconds * trips
            ),
        )


@dataclasses.dataclass(frozen=True)
class Forecast:
    """The time of one run of a program on one device, and what it is made of.

    Attributes:
      compute_seconds: of all computation.
      exposed_seconds: of collectives that nothing overlaps.
      hidden_seconds: of all others, taken to be hidden.
      cycle_seconds: as ``seconds``, with the compiler's cycles for computation.
      flops: of matrix products, as often as the program makes them.
      hbm_bytes: read and written.
      collectives: those that take longest first.
      instructions: those that compute, those that take longest first.
    """

    compute_seconds: float
    exposed_seconds: float
    hidden_seconds: float
    cycle_seconds: float
    flops: float
    hbm_bytes: float
    collectives: tuple[Collective, ...]
    instructions: tuple[TimedInstruction, ...]

    @property
    def seconds(self) -> float:
        """The forecast time of a step, before calibration."""
        return self.compute_seconds + self.exposed_seconds

    def mfu(self, model_flops: float, peak_tflops: float) -> float:
        """Share of the peak that the model's operations make of a step.

        Args:
          model_flops: of one step on one device, without recomputation.
          peak_tflops: of one device.
        """
        return model_flops / (peak_tflops * 1e12 * self.seconds)


def forecast(
    text: str,
    chip: Chip,
    *,
    mesh: Mapping[str, int] | None = None,
    links: Mapping[str, int] | None = None,
    slices: int = 1,
    kernels: Kernels | None = None,
    trips: Mapping[str, int] | None = None,
) -> Forecast:
    """The time of one run of a program that was compiled for a TPU.

    Args:
      text: ``compiled.as_text()``.
      chip: what it was compiled for.
      mesh: sizes of its mesh axes, outermost first, to name those of collectives.
      links: links between chips that a collective uses, by the name of its axis; both
        directions of all dimensions of the torus if not given.
      slices: that the devices lie in; the outermost mesh axis goes across them.
      kernels: FLOPs of Pallas kernels; those of splash attention without a mask if not
        given.
      trips: runs of loops whose count depends on data, by name.

    Raises:
      ValueError: the text is not a scheduled program, it holds something that cannot be
        counted, or the chip, mesh or slices do not fit it.
    """
    if chip.hbm_gbps is None:
        raise ValueError(
            f"chip={chip.name} is no TPU; its memory and links are unknown."
        )
    program = parse(text)
    network = Network.of(chip, program.devices, mesh or {}, links or {}, slices)
    kernels = splash_kernels() if kernels is None else kernels
    walk = _Walk(program, chip, network, kernels, trips or {})
    parts = walk.computation(Scope.entry(program))
    sent = [part.collective for part in parts if part.collective]
    exposed = sum(each.seconds for each in sent if not each.overlapped)
    return Forecast(
        compute_seconds=sum(part.seconds for part in parts),
        exposed_seconds=exposed,
        hidden_seconds=sum(each.seconds for each in sent if each.overlapped),
        cycle_seconds=sum(part.cycle_seconds for part in parts) + exposed,
        flops=sum(part.flops for part in parts),
        hbm_bytes=sum(part.hbm_bytes for part in parts),
        collectives=tuple(sorted(sent, key=lambda each: -each.seconds)),
        instructions=tuple(
            sorted(
                (part for part in parts if part.seconds), key=lambda part: -part.seconds
            )
        ),
    )


@dataclasses.dataclass(frozen=True)
class _Walk:
    """All instructions of a program, those of loops as often as they run."""

    program: Program
    chip: Chip
    network: Network
    kernels: Kernels
    trips: Mapping[str, int]

    def computation(self, scope: Scope) -> list[TimedInstruction]:
        """All parts of one run of a computation."""
        parts = _whole(
            part for item in scope.computation for part in self.parts(item, scope)
        )
        # Copies that run beside the rest still share the memory with it.
        rate = HBM_SHARE * self.chip.hbm_gbps * 1e9
        late = sum(part.hbm_bytes for part in parts) / rate - _compute(parts)
        if late > 1e-9 * _compute(parts):
            name = f"copies beside {scope.computation.name}"
            cycles = sum(part.cycle_seconds for part in parts)
            behind = max(0.0, late + _compute(parts) - cycles)
            parts.append(TimedInstruction(name, "", seconds=late, cycle_seconds=behind))
        return parts

    def parts(self, item: Instruction, scope: Scope) -> list[TimedInstruction]:
        """The parts that one run of an instruction is made of."""
        opcode, base = item.opcode, item.opcode.removesuffix("-start")
        if base in OPS:
            return [self.collective(item, item, scope, overlapped=opcode != base)]
        if opcode == "send":
            return self.between_slices(item, scope)
        if opcode in _FREE or opcode.endswith("-done"):
            return []
        if opcode == "while":
            count = self.trips.get(item.name)
            count = trip_count(item, scope) if count is None else count
            return [part.times(count) for part in self.computation(scope.body(item))]
        if opcode == "conditional":
            names = item.called(
                "branch_computations", "true_computation"
            ) + item.called("false_computation")
            branches = [
                self.computation(scope.inside(item, name, 1 + position))
                for position, name in enumerate(names)
            ]
            return max(branches, key=_all_seconds)
        if base in ("async", "call"):
            called = scope.inside(item, item.called("calls", "to_apply")[0])
            parts = self.computation(called)
            return parts if opcode == base else [_overlapped(part) for part in parts]
        if opcode == "custom-call":
            target = (item.attribute("custom_call_target") or "").strip('"')
            if target in _FREE_CALLS:
                return []
        return self.compute(item, scope)

    def compute(self, item: Instruction, scope: Scope) -> list[TimedInstruction]:
        """An instruction that computes or copies, with a collective fused into it."""
        done = instruction_cost(self.program, scope.computation, item, self.kernels)
        seconds = max(
            done.passes / (MATMUL_SHARE * self.chip.peak_tflops * 1e12),
            done.bytes / (HBM_SHARE * self.chip.hbm_gbps * 1e9),
        )
        cycles = item.number("estimated_cycles")
        by_cycles = seconds if cycles is None else cycles / (self.chip.clock_ghz * 1e9)
        if item.opcode == "custom-call" and not done.flops:
            seconds = max(seconds, by_cycles)
        part = TimedInstruction(
            item.name, item.op_name, 1, seconds, by_cycles, done.flops, done.bytes
        )
        if item.opcode.endswith("-start"):
            return [_overlapped(part)]
        fused = self.fused(item, scope)
        if not fused:
            return [part]
        sender, inside = fused
        sent = self.collective(item, sender, inside, overlapped=bool(done.flops))
        return [part, sent] if done.flops else [sent]

    def fused(
        self, item: Instruction, scope: Scope
    ) -> tuple[Instruction, Scope] | None:
        """The collective in a fusion, and where it stands."""
        if item.opcode != "fusion":
            return None
        inside = scope.inside(item, item.called("calls")[0])
        for inner in inside.computation:
            if inner.opcode in OPS:
                return inner, inside
            deeper = self.fused(inner, inside)
            if deeper:
                return deeper
        return None

    def collective(
        self, item: Instruction, sender: Instruction, scope: Scope, overlapped: bool
    ) -> TimedInstruction:
        """A collective; ``sender`` is ``item`` or what is fused into it."""
        op = sender.opcode.removesuffix("-start")
        sizes = [
            array
            for name in sender.operands
            for array in arrays(scope.computation[name].shape)
        ]
        size = sum(array.bytes for array in sizes)
        groups = groups_of(sender.rest, self.program.devices)
        if op == "all-gather":
            size *= len(groups[0])
        slices_it = any(inner.opcode == "dynamic-slice" for inner in scope.computation)
        if op == "all-reduce" and sender is not item and slices_it:
            op = "reduce-scatter"  # Written as an all-reduce and a slice of it.
        # Whole instructions may share one number, as those of a shard_map all do.
        fused = sender is not item
        channel = sender.attribute("channel_id") if fused else None
        sent = Collective(
            op=op,
            dtype=sizes[0].dtype,
            bytes=size,
            group=len(groups[0]),
            axis=self.network.axis(groups),
            slices=self.network.reach(groups),
            count=1,
            overlapped=overlapped,
            seconds=self.network.seconds(op, size, groups),
            name=item.name,
            op_name=item.op_name,
            channel=channel and int(channel),
        )
        return TimedInstruction(item.name, item.op_name, collective=sent)

    def between_slices(self, item: Instruction, scope: Scope) -> list[TimedInstruction]:
        """What the host sends to the other slices, in a program that is for one slice.

        Raises:
          ValueError: it is sent elsewhere, or as no collective that is known.
        """
        kind = re.search(r'_xla_megascale_transfer_type="(\w+)"', item.rest)
        op = kind[1].lower().replace("_", "-") if kind else ""
        if op not in OPS or self.network.programs == 1:
            raise ValueError(
                f"{item.name} sends to the host, and not to another slice of "
                f"{self.network.programs} by a collective of {sorted(OPS)}."
            )
        (sent,) = arrays(scope.computation[item.operands[0]].shape)
        later = itertools.dropwhile(lambda other: other is not item, scope.computation)
        beside = itertools.takewhile(
            lambda other: (
                not (other.opcode == "send-done" and item.name in other.operands)
            ),
            later,
        )
        collective = Collective(
            op=op,
            dtype=sent.dtype,
            bytes=sent.bytes,
            group=self.network.programs,
            axis=self.network.outer,
            slices=self.network.programs,
            count=1,
            overlapped=any(other.opcode in _COMPUTES for other in beside),
            seconds=self.network.far_seconds(op, sent.bytes, self.network.programs),
            name=item.name,
            op_name=item.op_name,
        )
        return [TimedInstruction(item.name, item.op_name, collective=collective)]


def _whole(parts: Iterable[TimedInstruction]) -> list[TimedInstruction]:
    """The parts of a computation, fusions that carry on one transfer taken together.

    An asynchronous collective fusion writes a transfer as a start, computations that it
    goes on beside, and an end; each holds the collective, all with its channel.
    """
    kept: list[TimedInstruction] = []
    places: dict[tuple[int | None, str], int] = {}
    for part in parts:
        sent = part.collective
        if sent is None or sent.channel is None:
            kept.append(part)
        elif (key := (sent.channel, sent.op)) in places:
            kept[places[key]] = _overlapped(kept[places[key]])
        else:
            places[key] = len(kept)
            kept.append(part)
    return kept


def _overlapped(part: TimedInstruction) -> TimedInstruction:
    """A part that runs beside others: its traffic stays, its time is theirs."""
    sent = part.collective and dataclasses.replace(part.collective, overlapped=True)
    return dataclasses.replace(part, seconds=0.0, cycle_seconds=0.0, collective=sent)


def _compute(parts: Iterable[TimedInstruction]) -> float:
    return sum(part.seconds for part in parts)


def _all_seconds(parts: list[TimedInstruction]) -> float:
    sent = [part.collective for part in parts if part.collective]
    return _compute(parts) + sum(each.seconds for each in sent if not each.overlapped)
