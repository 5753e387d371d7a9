"""A roofline forecast of the time of one step from its compiled program.

The time of an instruction is that of its matrix products at 95% of the peak, or of its
bytes at 92% of the memory bandwidth, whichever is longer, times the trip counts of the
loops around it. Collectives that are not overlapped are added. Not counted are vector
work that memory traffic does not hide, partly filled tiles of a product, latency, and
waiting for other devices or for the input. The time is therefore a lower bound;
`calibrated` scales it by published measurements. The compiler's own estimates, which
are pessimistic about vector work, are an upper bound.
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
"""Assumed share of the peak that large matrix products reach."""

HBM_SHARE = 0.92
"""Assumed share of its peak that the memory bandwidth reaches."""

_FREE = frozenset(
    "add-dependency after-all async-done async-update bitcast call-done constant "
    "get-tuple-element optimization-barrier parameter recv tuple".split()
)
_COMPUTES = {"convolution", "custom-call", "dot", "fusion", "while"}
_FREE_CALLS = frozenset(
    "AllocateBuffer AssumeGatherIndicesInBound ConcatBitcast PrepareAsyncCallDone "
    "PrepareAsyncCallStart".split()
)


@dataclasses.dataclass(frozen=True)
class TimedInstruction:
    """The cost of one instruction of a program over all its runs in a step.

    Attributes:
      name, op_name: of the instruction, and of the JAX operation it comes from.
      trips: runs in a step.
      seconds: of computation.
      cycle_seconds: the compiler's estimate; ``seconds`` where it has none.
      flops: of matrix products.
      hbm_bytes: read and written.
      collective: its communication; the time of that is not in ``seconds``.
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
        """The cost in a loop that runs ``trips`` times."""
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
    """The forecast time of one run of a program on one device, and its components.

    Attributes:
      compute_seconds: of all computation.
      exposed_seconds: of collectives that are not overlapped.
      hidden_seconds: of all other collectives, assumed to be hidden.
      cycle_seconds: as ``seconds``, with the compiler's cycles for computation.
      flops: of matrix products, including recomputation.
      hbm_bytes: read and written.
      collectives: all of them, the longest first.
      instructions: those that compute, the longest first.
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
        """The forecast time of a step before calibration."""
        return self.compute_seconds + self.exposed_seconds

    def mfu(self, model_flops: float, peak_tflops: float) -> float:
        """Model FLOPs utilization: model FLOPs over those of the peak in the time.

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
    """Forecasts one run of a program that is compiled for a TPU.

    Args:
      text: ``compiled.as_text()``.
      chip: that the program is compiled for.
      mesh: sizes of its mesh axes, outermost first, to name the axes of collectives.
      links: links between chips that a collective uses, by the name of its axis; by
        default both directions of all dimensions of the torus.
      slices: of the devices; the outermost mesh axis spans them.
      kernels: FLOPs of Pallas kernels; by default those of unmasked splash attention.
      trips: trip counts of loops that depend on data, by the loop's name.

    Raises:
      ValueError: the text is not a scheduled program, an instruction cannot be counted,
        or the chip, mesh or slices do not match the program.
    """
    if chip.hbm_gbps is None:
        raise ValueError(
            f"chip={chip.name} is not a TPU; its memory and links are unknown."
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
    """Visits all instructions of a program and multiplies those of loops."""

    program: Program
    chip: Chip
    network: Network
    kernels: Kernels
    trips: Mapping[str, int]

    def computation(self, scope: Scope) -> list[TimedInstruction]:
        """The costs of one run of a computation."""
        parts = _whole(
            part for item in scope.computation for part in self.parts(item, scope)
        )
        # Overlapped copies still share the memory bandwidth with the computation.
        rate = HBM_SHARE * self.chip.hbm_gbps * 1e9
        late = sum(part.hbm_bytes for part in parts) / rate - _compute(parts)
        if late > 1e-9 * _compute(parts):
            name = f"overlapped copies of {scope.computation.name}"
            cycles = sum(part.cycle_seconds for part in parts)
            behind = max(0.0, late + _compute(parts) - cycles)
            parts.append(TimedInstruction(name, "", seconds=late, cycle_seconds=behind))
        return parts

    def parts(self, item: Instruction, scope: Scope) -> list[TimedInstruction]:
        """The costs of one run of an instruction."""
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
        """The costs of an instruction that computes or copies, and of a collective that
        is fused into it."""
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
        """The collective in a fusion, and its scope."""
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
        """The cost of a collective; ``sender`` is ``item`` or is fused into it."""
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
            op = "reduce-scatter"  # Expressed as an all-reduce and a slice of it.
        # Unfused collectives may share a channel, as all those of a shard_map do.
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
        """The cost of a transfer to other slices, in a program for a single slice.

        Raises:
          ValueError: its destination or its collective is unknown.
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
        meanwhile = itertools.takewhile(
            lambda other: (
                other.opcode != "send-done" or item.name not in other.operands
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
            overlapped=any(other.opcode in _COMPUTES for other in meanwhile),
            seconds=self.network.far_seconds(op, sent.bytes, self.network.programs),
            name=item.name,
            op_name=item.op_name,
        )
        return [TimedInstruction(item.name, item.op_name, collective=collective)]


def _whole(parts: Iterable[TimedInstruction]) -> list[TimedInstruction]:
    """The costs of a computation, with the fusions of one transfer merged.

    An asynchronous collective fusion expresses a transfer as a start, computations that
    overlap it, and an end. Each contains the collective, all with the same channel.
    """
    merged: list[TimedInstruction] = []
    places: dict[tuple[int | None, str], int] = {}
    for part in parts:
        sent = part.collective
        if sent is None or sent.channel is None:
            merged.append(part)
        elif (key := (sent.channel, sent.op)) in places:
            merged[places[key]] = _overlapped(merged[places[key]])
        else:
            places[key] = len(merged)
            merged.append(part)
    return merged


def _overlapped(part: TimedInstruction) -> TimedInstruction:
    """An overlapped instruction: its memory traffic counts, its time does not."""
    sent = part.collective and dataclasses.replace(part.collective, overlapped=True)
    return dataclasses.replace(part, seconds=0.0, cycle_seconds=0.0, collective=sent)


def _compute(parts: Iterable[TimedInstruction]) -> float:
    return sum(part.seconds for part in parts)


def _all_seconds(parts: list[TimedInstruction]) -> float:
    sent = [part.collective for part in parts if part.collective]
    return _compute(parts) + sum(each.seconds for each in sent if not each.overlapped)
