"""What the instructions of a program do: operations, bytes, Pallas kernels."""

import pytest
from programs import program, reference

from snapvideo_jax.parallel.chips import CHIPS
from snapvideo_jax.planning.forecast import forecast, splash_kernels

PEAK, RATE = 0.95 * 197e12, 0.92 * 819e9
"""What a v5e reaches: FLOP/s, bytes/s."""


def of(text, **options):
    return forecast(text, CHIPS["v5e"], **options)


def traffic(*lines, computations=()):
    """Bytes of a program from its lines."""
    return of(program(lines, *computations)).hbm_bytes


# Operations.

TAPS = 3 * 16 - 2
"""Pairs of one of 16 outputs and one of 3 taps that meet one of 16 inputs."""

STRIDED_TAPS = 3 * 8 - 1


@pytest.mark.parametrize(
    "name, flops",
    [
        ("matrix", 2 * 256 * 512 * 384),
        ("batched", 2 * 4 * 64 * 64 * (2 * 256)),
        ("scores", 2 * (2 * 4) * 256 * 256 * 64),
        ("two_axes", 2 * 64 * 64 * (2 * 256 * 4)),
        ("convolution", 2 * 8 * TAPS**2 * 128 * 128),
        ("strided", 2 * 8 * STRIDED_TAPS**2 * 128 * 128),
        ("grouped", 2 * 8 * TAPS**2 * 32 * 128),
        ("depthwise", 2 * 8 * TAPS**2 * 128),
        ("gradient", 2 * 8 * STRIDED_TAPS**2 * 128 * 128),
        ("exact", 2 * 256 * 256 * 256),
    ],
)
def test_products_of_every_kind_are_counted(name, flops):
    parts = of(reference("products")).instructions
    assert sum(part.flops for part in parts if f"/{name}/" in part.op_name) == flops


def test_without_loops_the_compiler_counts_the_same():
    for name in ("products", "branches"):
        text = reference(name)
        counted = float(text.split("cost_analysis: ")[1].split(" ")[0])
        # It also counts vector work.
        assert of(text).flops == pytest.approx(counted, rel=0.01)
        assert of(text).flops <= counted


def test_the_compiler_counts_a_loop_s_body_once_and_the_forecast_every_run():
    once = 2 * 256**3
    assert of(reference("nested")).flops == 5 * 7 * once
    counted = float(reference("nested").split("cost_analysis: ")[1].split(" ")[0])
    assert once <= counted < 1.01 * once


@pytest.mark.parametrize(
    "window, outputs, taps",
    [
        ("size=3 pad=1_1", 8, 22),
        ("size=3 pad=1_1 stride=2", 4, 11),
        ("size=3 pad=2_2 rhs_dilate=2", 8, 6 + 8 + 6),
        ("size=3 pad=1_1 lhs_dilate=2", 15, 7 + 8 + 7),
        ("size=3 pad=-1_0 rhs_reversal=1", 5, 15),
    ],
)
def test_only_taps_that_meet_one_of_eight_inputs_count(window, outputs, taps):
    lines = [
        "%x = f32[2,8,4] parameter(0)",
        "%w = f32[3,4,5] parameter(1)",
        f"ROOT %y = f32[2,{outputs},5] convolution(%x, %w), "
        f"window={{{window}}}, dim_labels=b0f_0io->b0f",
    ]
    assert of(program(lines)).flops == 2 * taps * 2 * 4 * 5


@pytest.mark.parametrize("kind", ["feature_group_count=2", "batch_group_count=2"])
def test_groups_divide_a_convolution(kind):
    lines = [
        "%x = bf16[4,8] parameter(0)",
        "%w = bf16[8,6] parameter(1)",
        f"ROOT %y = bf16[4,6] convolution(%x, %w), dim_labels=bf_io->bf, {kind}",
    ]
    assert of(program(lines)).flops == 2 * 4 * 8 * 6 / 2


def test_a_dot_contracts_the_axes_it_names():
    lines = [
        "%x = bf16[4,8,16] parameter(0)",
        "%w = bf16[4,16,32] parameter(1)",
        "ROOT %y = bf16[4,8,32] dot(%x, %w), lhs_batch_dims={0}, "
        "lhs_contracting_dims={2}, rhs_batch_dims={0}, rhs_contracting_dims={1}",
    ]
    assert of(program(lines)).flops == 2 * 4 * 8 * 16 * 32


def test_a_float32_product_passes_the_matrix_unit_six_times():
    parts = of(reference("products")).instructions
    (exact,) = [part for part in parts if "/exact/" in part.op_name]
    assert exact.seconds == pytest.approx(6 * exact.flops / PEAK)


def test_of_two_branches_the_longer_counts():
    assert of(reference("branches")).flops == 2 * 2 * 256**3


# Bytes.


def test_on_chip_memory_and_scalars_are_free():
    assert (
        traffic(
            "%x = f32[100]{0:S(1)} parameter(0)",
            "%n = s32[] parameter(1)",
            "%m = s32[] negate(%n)",
            "ROOT %y = f32[100]{0} copy(%x)",
        )
        == 400
    )


def test_views_are_free():
    assert not traffic(
        "%x = f32[100] parameter(0)",
        "%b = f32[10,10] bitcast(%x)",
        "%t = (f32[10,10], f32[100]) tuple(%b, %x)",
        "ROOT %y = f32[100] get-tuple-element(%t), index=1",
    )


@pytest.mark.parametrize(
    "line, size",
    [
        ("dynamic-slice(%x, %i, %i), dynamic_slice_sizes={1,50}", 2 * 200),
        ("slice(%x), slice={[3:4], [0:50]}", 2 * 200),
        ("gather(%x, %rows), offset_dims={1}", 2 * 200 + 4),
    ],
)
def test_a_slice_is_read_at_its_own_size(line, size):
    lines = [
        "%x = f32[40,50] parameter(0)",
        "%i = s32[] parameter(1)",
        "%rows = s32[1] parameter(2)",
        f"ROOT %y = f32[1,50] {line}",
    ]
    assert traffic(*lines) == size


def test_an_update_is_made_in_place():
    update = "dynamic-update-slice(%x, %u, %i, %i)"
    assert (
        traffic(
            "%x = f32[40,50] parameter(0)",
            "%u = f32[1,50] parameter(1)",
            "%i = s32[] parameter(2)",
            f"ROOT %y = f32[40,50] {update}",
        )
        == 2 * 200
    )


FUSED_SLICE = [
    "%sliced (x: f32[40,50], i: s32[]) -> bf16[50]",
    "%x = f32[40,50] parameter(0)",
    "%i = s32[] parameter(1)",
    "%c = bf16[40,50] convert(%x)",
    "%s = bf16[1,50] dynamic-slice(%c, %i, %i), dynamic_slice_sizes={1,50}",
    "ROOT %b = bf16[50] bitcast(%s)",
]


def test_a_fused_slice_is_read_at_its_own_size():
    lines = [
        "%x = f32[40,50] parameter(0)",
        "%i = s32[] parameter(1)",
        "ROOT %y = bf16[50] fusion(%x, %i), kind=kLoop, calls=%sliced",
    ]
    assert traffic(*lines, computations=[FUSED_SLICE]) == 200 + 100


def test_a_slice_in_a_fusion_in_a_fusion_too():
    outer = [
        "%outer (x: f32[40,50], i: s32[]) -> bf16[50]",
        "%x = f32[40,50] parameter(0)",
        "%i = s32[] parameter(1)",
        "%inner = bf16[50] fusion(%x, %i), kind=kLoop, calls=%sliced",
        "ROOT %n = bf16[50] negate(%inner)",
    ]
    lines = [
        "%x = f32[40,50] parameter(0)",
        "%i = s32[] parameter(1)",
        "ROOT %y = bf16[50] fusion(%x, %i), kind=kLoop, calls=%outer",
    ]
    assert traffic(*lines, computations=[FUSED_SLICE, outer]) == 200 + 100


@pytest.mark.parametrize("target, size", [("%x", 100 + 200), ("%made", 100 + 40 * 200)])
def test_a_fused_update_is_in_place_only_of_a_buffer_that_was_there(target, size):
    updated = [
        "%updated (x: f32[40,50], u: bf16[1,50], i: s32[]) -> f32[40,50]",
        "%x = f32[40,50] parameter(0)",
        "%u = bf16[1,50] parameter(1)",
        "%i = s32[] parameter(2)",
        "%zero = f32[] constant(0)",
        "%made = f32[40,50] broadcast(%zero), dimensions={}",
        "%c = f32[1,50] convert(%u)",
        f"%d = f32[40,50] dynamic-update-slice({target}, %c, %i, %i)",
        "ROOT %b = f32[40,50] bitcast(%d)",
    ]
    lines = [
        "%x = f32[40,50] parameter(0)",
        "%u = bf16[1,50] parameter(1)",
        "%i = s32[] parameter(2)",
        "ROOT %y = f32[40,50] fusion(%x, %u, %i), kind=kLoop, calls=%updated",
    ]
    assert traffic(*lines, computations=[updated]) == size


def test_a_slice_that_is_copied_beside_the_rest_has_its_own_size():
    shape = "((f32[40,50]), f32[1,50]{1,0:S(1)}, s32[])"
    assert (
        traffic(
            "%x = f32[40,50] parameter(0)",
            f"%start = {shape} slice-start(%x), slice={{[3:4], [0:50]}}",
            "ROOT %done = f32[1,50]{1,0:S(1)} slice-done(%start)",
        )
        == 200
    )


def test_a_copy_beside_the_rest_takes_time_only_where_memory_is_the_limit():
    copy = [
        "%x = f32[1000,1000] parameter(0)",
        "%start = (f32[1000,1000]{1,0:S(1)}, f32[1000,1000], u32[]) copy-start(%x)",
        "%done = f32[1000,1000]{1,0:S(1)} copy-done(%start)",
    ]
    alone = of(program(copy))
    assert alone.hbm_bytes == 4e6
    assert alone.seconds == alone.cycle_seconds == pytest.approx(4e6 / RATE)
    product = "ROOT %y = f32[1000,1000]{1,0:S(1)} convolution(%done, %done)"
    overlapped = of(program([*copy, f"{product}, dim_labels=bf_io->bf"]))
    assert overlapped.hbm_bytes == 4e6
    assert overlapped.seconds == pytest.approx(2e9 / PEAK)


# Kernels.


def test_a_kernel_that_tells_its_cost_is_believed():
    (part,) = of(reference("kernel")).instructions
    assert (part.name, part.flops, part.hbm_bytes) == ("double.1", 10**9, 4096)
    assert part.seconds == pytest.approx(10**9 / PEAK)


def test_splash_attention_makes_two_three_and_four_products():
    product = 2 * (2 * 4) * 512 * 512 * 128
    names = ("fwd", "dq", "dkv")

    def flops(**options):
        parts = of(reference("attention"), **options).instructions
        return [
            sum(part.flops for part in parts if f"splash_mha_{name}" in part.name)
            for name in names
        ]

    assert flops() == [2 * product, 3 * product, 4 * product]
    halved = splash_kernels(density=0.5, fused_backward=True)
    assert flops(kernels=halved) == [1 * product, 1.5 * product, 2.5 * product]


CALL = [
    "%x = bf16[100,100] parameter(0)",
    "ROOT %mine = bf16[100,100] custom-call(%x), "
    'custom_call_target="tpu_custom_call", backend_config={}',
]


def test_a_kernel_without_a_cost_is_refused_until_it_is_given():
    with pytest.raises(ValueError, match="The Pallas kernel mine .* has no cost"):
        of(program(CALL))
    given = of(program(CALL), kernels={"mine": lambda operands: operands[0].size})
    assert (given.flops, given.hbm_bytes) == (10_000, 40_000)


def test_a_kernel_with_only_the_compiler_s_cycles_takes_those():
    cycles = '{"window_config":{"estimated_cycles":"1500000"}}'
    text = program([CALL[0], CALL[1].replace("{}", cycles)])
    assert of(text).seconds == pytest.approx(1e-3)


def test_other_calls_take_the_time_of_their_bytes_and_bookkeeping_none():
    text = program([CALL[0], CALL[1].replace("tpu_custom_call", "TopK")])
    assert of(text).seconds == pytest.approx(40_000 / RATE)
    text = program([CALL[0], CALL[1].replace("tpu_custom_call", "AllocateBuffer")])
    assert of(text).seconds == 0
