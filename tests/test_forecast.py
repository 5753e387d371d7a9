"""How long a compiled program takes, against counts by hand."""

import dataclasses

import pytest
from programs import loop, program, reference

from snapvideo_jax.parallel.chips import CHIPS
from snapvideo_jax.planning.forecast import CALIBRATIONS, calibrated, forecast

V5E = CHIPS["v5e"]
PEAK, RATE, LINK = 0.95 * 197e12, 0.92 * 819e9, 45e9
"""What a v5e reaches: FLOP/s, bytes/s, bytes/s of a link one way."""

MIB = 2**20


def of(text, **options):
    return forecast(text, V5E, **options)


# One program, every number by hand: three layers of 512 x 1024 times 1024 x 1024, whose
# weights are gathered from four chips.


@pytest.fixture(scope="module")
def scan():
    return of(reference("scan"), mesh={"fsdp": 4})


def test_operations_of_the_scan(scan):
    assert scan.flops == 3 * 2 * 512 * 1024 * 1024


def test_bytes_of_the_scan(scan):
    # A layer reads its own 256 of 1024 rows, into on-chip memory, where all else lies;
    # before and after the loop the tokens are copied in and out.
    assert scan.hbm_bytes == 3 * 256 * 1024 * 2 + 2 * 512 * 1024 * 2


def test_collectives_of_the_scan(scan):
    (gather,) = scan.collectives
    assert (gather.op, gather.dtype, gather.bytes) == ("all-gather", "bf16", 2 * MIB)
    assert (gather.group, gather.axis, gather.slices) == (4, "fsdp", 1)
    assert (gather.count, gather.overlapped) == (3, False)
    assert gather.seconds == pytest.approx(3 * 2 * MIB * 3 / 4 / (4 * LINK))
    assert gather.op_name == "jit(layers)/while/body/closed_call/dot_general"


def test_seconds_of_the_scan(scan):
    product, weights = 3 * 2 * 512 * 1024 * 1024 / PEAK, 3 * 256 * 1024 * 2 / RATE
    assert scan.compute_seconds == pytest.approx(product + weights)
    assert scan.exposed_seconds == scan.collectives[0].seconds
    assert scan.hidden_seconds == 0
    assert scan.seconds == scan.compute_seconds + scan.exposed_seconds
    cycles = 3 * (5206 + 6336 + 12636) / 1.5e9
    assert scan.cycle_seconds == pytest.approx(cycles + scan.exposed_seconds)
    first, second = scan.instructions
    assert (first.name, first.trips) == ("fusion.11", 3)
    assert first.seconds == pytest.approx(product)
    assert second.seconds == pytest.approx(weights)


def test_mfu_is_the_share_of_the_peak_that_the_model_needs(scan):
    assert scan.mfu(scan.flops, 197) == pytest.approx(
        scan.flops / 197e12 / scan.seconds
    )


# Loops.


def test_a_loop_counts_as_often_as_it_runs_or_is_said_to():
    condition = [
        "%limit = s32[] constant(7)",
        "ROOT %goes = pred[] compare(%i, %limit), direction=LT",
    ]
    body = [
        "%one = s32[] constant(1)",
        "%next = s32[] add(%i, %one)",
        "%y = f32[100] negate(%x)",
    ]
    text = loop(condition, body, carried="f32[100]")
    assert of(text).hbm_bytes == 7 * 800
    assert of(text).seconds == pytest.approx(7 * 800 / RATE)
    assert [part.trips for part in of(text).instructions] == [7]
    assert of(text, trips={"loop": 3}).hbm_bytes == 3 * 800


def test_a_loop_that_depends_on_data_is_refused_until_its_runs_are_given():
    text = reference("data_loop")
    with pytest.raises(ValueError, match="trip count of while.5"):
        of(text)
    assert of(text, trips={"while.5": 10}).flops == 10 * 2 * 256**3


# Collectives.


def test_every_collective_is_found_with_its_bytes():
    found = {sent.op: sent for sent in of(reference("collectives")).collectives}
    sizes = {op: sent.bytes / MIB for op, sent in found.items()}
    assert sizes == {
        "all-reduce": 8,
        "all-gather": 8,
        "reduce-scatter": 4,
        "all-to-all": 1,
        "collective-permute": 0.5,
    }
    assert {sent.group for sent in found.values()} == {4}
    assert [op for op, sent in found.items() if sent.overlapped] == [
        "collective-permute"
    ]


def test_collectives_come_longest_first_and_only_exposed_ones_take_time():
    result = of(reference("collectives"))
    seconds = [sent.seconds for sent in result.collectives]
    assert seconds == sorted(seconds, reverse=True)
    hidden = 0.5 * MIB / LINK
    assert result.hidden_seconds == pytest.approx(hidden)
    assert result.exposed_seconds == pytest.approx(sum(seconds) - hidden)


def test_what_another_core_gathers_is_hidden():
    result = forecast(reference("offload"), CHIPS["v6e"], mesh={"x": 16})
    assert [(sent.op, sent.group) for sent in result.collectives] == [
        ("all-gather", 16),
        ("all-gather", 16),
    ]
    assert [sent.bytes / MIB for sent in result.collectives] == [16, 8]
    assert result.exposed_seconds == 0 < result.hidden_seconds
    assert result.flops == 2 * 512 * 8192 * (512 + 1024)


GATHER = "replica_groups=[1,4]<=[4], dimensions={0}"


def test_a_start_and_its_end_are_one_hidden_collective():
    lines = [
        "%x = bf16[100] parameter(0)",
        f"%s = (bf16[100], bf16[400]) all-gather-start(%x), {GATHER}",
        "ROOT %d = bf16[400] all-gather-done(%s)",
    ]
    (sent,) = of(program(lines, devices=4)).collectives
    assert (sent.op, sent.bytes, sent.overlapped) == ("all-gather", 800, True)


def test_a_wrapped_collective_is_hidden():
    wrapped = [
        "%wrapped (x: bf16[400]) -> bf16[100]",
        "%x = bf16[400] parameter(0)",
        "ROOT %r = bf16[100] reduce-scatter(%x), replica_groups={{0,1,2,3}}",
    ]
    lines = [
        "%x = bf16[400] parameter(0)",
        "%s = ((bf16[400]), bf16[100], u32[]) async-start(%x), calls=%wrapped",
        "%u = ((bf16[400]), bf16[100], u32[]) async-update(%s)",
        "ROOT %d = bf16[100] async-done(%u)",
    ]
    (sent,) = of(program(lines, wrapped, devices=4)).collectives
    assert (sent.op, sent.bytes, sent.overlapped) == ("reduce-scatter", 800, True)


def fused_collective(*lines):
    return program(
        ["%x = bf16[100,100] parameter(0)", "ROOT %y = bf16[25,100] fusion(%x), "
         "kind=kCustom, calls=%fused"],
        ["%fused (x: bf16[100,100]) -> bf16[25,100]",
         "%x = bf16[100,100] parameter(0)", *lines],
        devices=4,
    )  # fmt: skip


REDUCE = "replica_groups={{0,1,2,3}}, to_apply=%add"
SLICE = "dynamic-slice(%r, %i, %i), dynamic_slice_sizes={25,100}"


def test_an_all_reduce_fused_with_a_slice_of_it_is_a_reduce_scatter():
    text = fused_collective(
        f"%r = bf16[100,100] all-reduce(%x), {REDUCE}",
        "%i = s32[] constant(0)",
        f"ROOT %s = bf16[25,100] {SLICE}",
    )
    (sent,) = of(text).collectives
    assert (sent.op, sent.bytes, sent.overlapped) == ("reduce-scatter", 20_000, False)
    assert of(text).compute_seconds == 0
    assert of(text).exposed_seconds == pytest.approx(20_000 * 3 / 4 / (4 * LINK))


def test_a_collective_fused_with_a_product_is_hidden():
    text = fused_collective(
        "%p = bf16[100,100] convolution(%x, %x), dim_labels=bf_io->bf",
        f"%r = bf16[100,100] all-reduce(%p), {REDUCE}",
        "%i = s32[] constant(0)",
        f"ROOT %s = bf16[25,100] {SLICE}",
    )
    (sent,) = of(text).collectives
    assert (sent.op, sent.overlapped) == ("reduce-scatter", True)
    assert of(text).flops == 2e6
    assert of(text).exposed_seconds == 0 < of(text).compute_seconds


def test_fusions_that_carry_on_one_transfer_are_one_hidden_collective():
    gather = "all-gather(%x), channel_id=7, dimensions={0}, replica_groups={{0,1,2,3}}"
    product = "%p = bf16[100,100] convolution(%x, %x), dim_labels=bf_io->bf"
    shape = "(bf16[100,100]) -> bf16[400,100]"

    def carrier(name, *lines):
        return [
            f"%{name} {shape}",
            "%x = bf16[100,100] parameter(0)",
            *lines,
            f"ROOT %g = bf16[400,100] {gather}",
        ]

    def call(name):
        return f"bf16[400,100] fusion(%x), kind=kCustom, calls=%{name}"

    text = program(
        [
            "%x = bf16[100,100] parameter(0)",
            f"%a = {call('start')}",
            f"%b = {call('middle')}",
            f"ROOT %c = {call('end')}",
        ],
        carrier("start"),
        carrier("middle", product),
        carrier("end"),
        devices=4,
    )
    (sent,) = of(text).collectives
    assert (sent.op, sent.bytes, sent.count) == ("all-gather", 80_000, 1)
    assert sent.overlapped and of(text).exposed_seconds == 0
    assert of(text).flops == 2e6


def test_links_and_slices_reach_the_collectives():
    plain = of(reference("scan"), mesh={"fsdp": 4})
    ring = of(reference("scan"), mesh={"fsdp": 4}, links={"fsdp": 1})
    assert ring.exposed_seconds == pytest.approx(4 * plain.exposed_seconds)
    far = of(reference("scan"), slices=2)
    assert far.collectives[0].slices == 2
    assert far.exposed_seconds > plain.exposed_seconds


# Chips and calibration.


def test_a_chip_without_memory_and_links_is_refused():
    with pytest.raises(ValueError, match="chip=H100 is not a TPU"):
        forecast(reference("scan"), CHIPS["H100"])


def test_a_faster_chip_takes_less_time_for_the_same_work():
    slow, fast = (forecast(reference("scan"), CHIPS[name]) for name in ("v5e", "v6e"))
    assert (slow.flops, slow.hbm_bytes) == (fast.flops, fast.hbm_bytes)
    assert fast.seconds < slow.seconds


@pytest.mark.parametrize("name", CALIBRATIONS)
def test_a_calibrated_time_is_as_much_longer_as_the_published_one(name, scan):
    row = CALIBRATIONS[name]
    assert 0.5 < row.ratio == row.published / row.forecast < 1
    assert calibrated(CHIPS[name], scan) == pytest.approx(scan.seconds / row.ratio)
    twice = dataclasses.replace(
        scan,
        compute_seconds=2 * scan.compute_seconds,
        exposed_seconds=2 * scan.exposed_seconds,
    )
    assert calibrated(CHIPS[name], twice) == 2 * calibrated(CHIPS[name], scan)


def test_a_chip_without_a_published_step_is_refused(scan):
    with pytest.raises(
        ValueError, match="There is no calibration for chip=v5e, only for"
    ):
        calibrated(V5E, scan)


# Programs of one slice among several.


def exchange(between, kind="ALL_REDUCE"):
    """A program of 4 devices that sends 4 MB to the other slice of two."""
    attributes = "channel_id=8, is_host_transfer=true, frontend_attributes={"
    attributes += f'_xla_megascale_transfer_type="{kind}"}}'
    handed = "(bf16[2048,1024], u32[], token[])"
    return program(
        [
            "%x = bf16[2048,1024]{1,0} parameter(0)",
            "%t = token[] after-all()",
            f"%send.1 = {handed} send(%x, %t), {attributes}",
            f"%recv.1 = {handed} recv(%t), {attributes}",
            *between,
            "%sent = token[] send-done(%send.1), channel_id=8",
            "ROOT %got = (bf16[2048,1024], token[]) recv-done(%recv.1), channel_id=8",
        ],
        devices=4,
    )


PRODUCT = "%y = bf16[2048,2048]{1,0} dot(%x, %x), lhs_contracting_dims={1}, "
PRODUCT += "rhs_contracting_dims={1}"


@pytest.mark.parametrize("between, overlapped", [([], False), ([PRODUCT], True)])
def test_slices_exchange_what_they_send_to_the_host(between, overlapped):
    found = of(exchange(between), mesh={"replica": 2, "fsdp": 4}, slices=2)
    (sent,) = found.collectives
    assert (sent.op, sent.axis, sent.slices) == ("all-reduce", "replica", 2)
    assert sent.bytes == 4 * MIB and sent.overlapped == overlapped
    assert sent.seconds == pytest.approx(4 * MIB / (V5E.dcn_gbps * 1e9))


def test_what_is_sent_nowhere_is_refused():
    with pytest.raises(ValueError, match="send.1 sends to the host, and not to anoth"):
        of(exchange([]), mesh={"fsdp": 4})
    with pytest.raises(ValueError, match="not to another slice of 2 by a collective"):
        of(exchange([], kind="X"), mesh={"replica": 2, "fsdp": 4}, slices=2)
