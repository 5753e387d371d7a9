"""The cost of one instruction: FLOPs of its matrix products, and bytes of HBM.

Bytes are those of logical shapes: the padding of tiles, which is large for widths that
are not multiples of 128, is not counted. Buffers in other memories than HBM (on-chip or
host memory) are free, and so are scalars.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from snapvideo_jax.planning.forecast.hlo import (
    HBM,
    Array,
    Computation,
    Instruction,
    Program,
    Shape,
    arrays,
)

Kernels = Mapping[str, Callable[[tuple[Array, ...]], float]]
"""FLOPs of Pallas kernels from their operands, by the start of the kernel's name."""

# The matrix unit multiplies bf16: a float32 product takes three or six passes.
_PASSES = {"high": 3, "highest": 6}
_SAME_ELEMENTS = ("bitcast", "convert", "copy", "reshape", "transpose")
_WINDOW_KEYS = ("size", "stride", "pad", "lhs_dilate", "rhs_dilate")


@dataclasses.dataclass(frozen=True)
class Cost:
    """The cost of one run of an instruction.

    Attributes:
      flops: of matrix products; one multiplication and one addition are two.
      passes: ``flops`` times the passes of each product through the matrix unit.
      bytes: read from and written to HBM.
    """

    flops: float = 0.0
    passes: float = 0.0
    bytes: float = 0.0


def splash_kernels(density: float = 1.0, fused_backward: bool = False) -> Kernels:
    """FLOPs of JAX's splash attention kernels, which have no cost estimate.

    Args:
      density: share of unmasked scores: 1 without a mask, about 1/2 for a causal one.
      fused_backward: whether the kernel of the gradients of k and v also computes that
        of q (``use_fused_bwd_kernel``).
    """

    def kernel(products):
        def flops(operands):
            # Index and mask arrays, then q of (..., heads, queries, width) and k.
            q, k = [x for x in operands if x.dtype in ("bf16", "f32")][:2]
            return density * products * 2 * q.size * k.dims[-2]

        return flops

    names = [f"splash_{kind}_{{}}" for kind in ("mha", "mqa")]
    # Forward: scores, values. Backward: scores, their gradient, and those of q, or of
    # k and v.
    products = {"fwd": 2, "dq": 3, "dkv": 5 if fused_backward else 4}
    return {name.format(at): kernel(n) for name in names for at, n in products.items()}


def instruction_cost(
    program: Program, computation: Computation, item: Instruction, kernels: Kernels
) -> Cost:
    """The cost of one run of an instruction.

    Args:
      program, computation: that contain it.
      item: an instruction that calls no computation, or a fusion.
      kernels: FLOPs of Pallas kernels that have no cost estimate.

    Raises:
      ValueError: a Pallas kernel has no cost estimate and is not in ``kernels``.
    """
    flops = passes = 0.0
    for inner, product in _products(program, computation, item):
        count = _product_flops(inner, product)
        flops += count
        passes += count * _passes(inner, product)
    size = _read(program, computation, item) + _written(program, computation, item)
    if item.opcode != "custom-call":
        return Cost(flops, passes, size)
    if item.attribute("custom_call_target") != '"tpu_custom_call"':
        return Cost(bytes=size)
    flops = _kernel_flops(computation, item, kernels)
    size = item.number("bytes_accessed") or size
    return Cost(flops, flops, size)


def _kernel_flops(
    computation: Computation, item: Instruction, kernels: Kernels
) -> float:
    for name, flops in kernels.items():
        if item.name.startswith(name):
            return flops(_operands(computation, item))
    if item.number("flops") is not None:
        return item.number("flops")
    if item.number("estimated_cycles") is not None:
        return 0.0
    raise ValueError(
        f"The Pallas kernel {item.name} ({item.op_name}) has no cost estimate. Give "
        "its pallas_call a cost_estimate, or pass kernels={name: FLOPs from operands}."
    )


# Matrix products.


def _products(
    program: Program, computation: Computation, item: Instruction
) -> Iterator[tuple[Computation, Instruction]]:
    """All products of an instruction, with the computation of each."""
    if item.opcode in ("convolution", "dot"):
        yield computation, item
    elif item.opcode == "fusion":
        called = program.computations[item.called("calls")[0]]
        for inner in called:
            yield from _products(program, called, inner)


def _product_flops(computation: Computation, item: Instruction) -> float:
    left, right = _operands(computation, item)
    if item.opcode == "dot":
        contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", item.rest).group(1)
        terms = [left.dims[int(axis)] for axis in contracted.split(",") if axis]
        return 2.0 * item.shape.size * math.prod(terms)
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", item.rest).groups()
    sizes = [
        dict(zip(label, array.dims, strict=True))
        for label, array in zip(labels, (left, right, item.shape), strict=True)
    ]
    source, _, result = sizes
    pairs = math.prod(
        _pairs(source[axis], result[axis], *window)
        for axis, window in zip("0123456789", _window(item.rest), strict=False)
    )
    groups = [item.attribute(f"{kind}_group_count") for kind in ("feature", "batch")]
    split = math.prod(int(count or 1) for count in groups)
    return 2.0 * source["f"] * source["b"] * result["f"] * pairs / split


def _window(rest: str) -> list[tuple[int, int, int, int, int]]:
    """Size, stride, low padding, left and right dilation of each spatial axis."""
    found = re.search(r"(?:^|, )window=\{([^}]*)\}", rest)
    if not found:
        return []
    given = dict(part.split("=") for part in found.group(1).split())
    axes = len(given["size"].split("x"))
    columns = []
    for key in _WINDOW_KEYS:
        default = "0_0" if key == "pad" else "1"
        values = given.get(key, "x".join([default] * axes)).split("x")
        columns.append([int(value.split("_")[0]) for value in values])
    return list(zip(*columns, strict=True))


def _pairs(source, result, size, stride, before, left_dilation, right_dilation) -> int:
    """Pairs of an output and a tap of the window that fall on an input element.

    The TPU compiler expresses batches of products as windows over a dilated input,
    where most taps fall on no element; like XLA, this counts the other taps only.
    """
    ends = (source - 1) * left_dilation
    longer, shorter = np.arange(max(size, result)), range(min(size, result))
    step, other = (
        (stride, right_dilation) if result >= size else (right_dilation, stride)
    )
    count = 0
    for index in shorter:
        at = longer * step + index * other - before
        count += int(((at >= 0) & (at <= ends) & (at % left_dilation == 0)).sum())
    return count


def _passes(computation: Computation, item: Instruction) -> int:
    if {array.dtype for array in _operands(computation, item)} != {"f32"}:
        return 1
    found = re.search(r"operand_precision=\{(\w+),(\w+)\}", item.rest)
    return max(_PASSES.get(name, 1) for name in found.groups()) if found else 1


# Bytes.


def _operands(computation: Computation, item: Instruction) -> tuple[Array, ...]:
    return tuple(
        array for name in item.operands for array in arrays(computation[name].shape)
    )


def _in_hbm(array: Array) -> bool:
    return array.space == HBM and bool(array.dims)


def _read(program: Program, computation: Computation, item: Instruction) -> float:
    """Bytes that an instruction reads from HBM."""
    total = 0.0
    for position, name in enumerate(item.operands):
        for array in arrays(computation[name].shape):
            if _in_hbm(array):
                share = _elements_read(program, item, position, array.size)
                total += array.bytes * share / max(array.size, 1)
    return total


def _elements_read(
    program: Program, item: Instruction, position: int, size: int
) -> float:
    """Elements that an instruction reads of an operand of ``size`` elements."""
    if item.opcode == "fusion":
        called = program.computations[item.called("calls")[0]]
        return _elements_used(program, called, called.parameters[position], size)
    opcode = item.opcode.removesuffix("-start")
    if position == 0 and opcode in ("dynamic-slice", "slice", "gather"):
        return min(sum(array.size for array in arrays(_result(item))), size)
    if position == 0 and opcode in ("dynamic-update-slice", "scatter"):
        return 0  # Updated in place.
    return size


def _result(item: Instruction) -> Shape:
    """The result of an instruction; that of a start also contains its operands."""
    if not item.opcode.endswith("-start"):
        return item.shape
    first, *others = item.shape
    return first if isinstance(first, Array) else others[0]


def _elements_used(
    program: Program, called: Computation, value: Instruction, size: int
) -> float:
    """Elements of a value in a fusion that its users read."""
    if value is called.root:
        return size
    total = 0.0
    for user, position in called.users[value.name]:
        if user.opcode in _SAME_ELEMENTS:
            total += _elements_used(program, called, user, size)
        else:
            total += _elements_read(program, user, position, size)
    return min(total, size)


def _written(program: Program, computation: Computation, item: Instruction) -> float:
    """Bytes that an instruction writes to HBM."""
    total = 0.0
    for position, array in enumerate(arrays(_result(item))):
        if _in_hbm(array):
            share = _elements_written(program, computation, item, position)
            total += array.bytes * share / max(array.size, 1)
    return total


def _elements_written(
    program: Program, computation: Computation, item: Instruction, position: int
) -> int:
    """Elements of its output at ``position`` that an instruction writes."""
    whole = list(arrays(_result(item)))[position].size
    if item.opcode != "fusion":
        return _updated(computation, item) or whole
    called = program.computations[item.called("calls")[0]]
    root = called.root
    if root.opcode == "tuple":
        root = called[root.operands[position]]
    total = 0
    while root.opcode != "parameter":
        if root.opcode == "fusion":
            return total + _elements_written(program, called, root, 0)
        updated = _updated(called, root)
        if not updated and root.opcode != "bitcast":
            return whole  # A new buffer.
        total += updated
        root = called[root.operands[0]]
    return total or whole


def _updated(computation: Computation, item: Instruction) -> int:
    """Elements that an instruction updates in place in its first operand; or 0."""
    if item.opcode == "dynamic-update-slice":
        return computation[item.operands[1]].shape.size
    if item.opcode == "scatter":
        return computation[item.operands[-1]].shape.size
    return 0
