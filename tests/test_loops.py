"""Reading compiled programs, and finding how often their loops run."""

import pytest
from programs import loop, program, reference

from snapvideo_jax.planning.forecast.hlo import Array, arrays, parse
from snapvideo_jax.planning.forecast.loops import Scope, trip_count

COUNT_TO_8 = [
    "%limit = s32[] constant(8)",
    "ROOT %goes = pred[] compare(%i, %limit), direction=LT",
]
STEP_BY_1 = [
    "%one = s32[] constant(1)",
    "%next = s32[] add(%i, %one)",
    "%y = s32[] copy(%x)",
]


def trips(text):
    """How often each loop of a program runs, outer ones first."""
    found = {}

    def walk(scope):
        for item in scope.computation:
            if item.opcode == "while":
                found[item.name] = trip_count(item, scope)
                walk(scope.body(item))

    walk(Scope.entry(parse(text)))
    return list(found.values())


# Reading.


def test_an_array_has_the_bytes_of_its_logical_shape_and_a_place():
    line = "%x = (bf16[3,130]{1,0:T(8,128)(2,1)S(1)}, pred[], /*index=2*/s4[8]) tuple()"
    shape = parse(program([f"ROOT {line}"])).entry.root.shape
    assert shape == (Array("bf16", (3, 130), 1), Array("pred", ()), Array("s4", (8,)))
    assert [array.bytes for array in arrays(shape)] == [780, 1, 4]


def test_an_attribute_may_hold_line_breaks():
    lines = ['%x = f32[] parameter(0), note={a={\n"b":1\n}}, metadata={op_name="f/g"}']
    assert parse(program([*lines, "ROOT %y = f32[] copy(%x)"])).entry["x"].op_name == (
        "f/g"
    )


def test_a_program_tells_its_entry_root_and_devices():
    read = parse(reference("scan"))
    assert (read.entry.name, read.entry.root.name) == ("main.3_spmd", "copy-done")
    assert (read.devices, len(read.computations)) == (4, 7)


def test_other_texts_are_refused():
    with pytest.raises(ValueError, match="not a scheduled HLO module; pass compiled"):
        parse("module @jit_f { func.func public @main() }")
    with pytest.raises(ValueError, match="no ENTRY computation; its text is cut off"):
        parse("HloModule jit_f, is_scheduled=true\n")


# Loops.


@pytest.mark.parametrize(
    "name, counts", [("scan", [3]), ("nested", [5, 7]), ("kernel", [])]
)
def test_loops_of_the_compiler_run_as_often_as_they_were_written(name, counts):
    assert trips(reference(name)) == counts


@pytest.mark.parametrize(
    "start, limit, step, direction, count",
    [
        (0, 8, 1, "LT", 8),
        (3, 8, 1, "LE", 6),
        (0, 9, 2, "LT", 5),
        (8, 0, -3, "GT", 3),
        (8, 0, -2, "GE", 5),
        (1, 7, 3, "NE", 2),
        (9, 8, 1, "LT", 0),
    ],
)
def test_a_loop_runs_until_its_condition_fails(start, limit, step, direction, count):
    text = loop(
        [
            f"%limit = s32[] constant({limit})",
            f"ROOT %goes = pred[] compare(%i, %limit), direction={direction}",
        ],
        [
            f"%step = s32[] constant({step})",
            "%next = s32[] add(%i, %step)",
            "%y = s32[] copy(%x)",
        ],
        start,
    )
    assert trips(text) == [count]


def test_what_the_compiler_says_comes_first():
    known = ', backend_config={"known_trip_count":{"n":"17"}}'
    assert trips(loop(COUNT_TO_8, STEP_BY_1, attributes=known)) == [17]


def test_a_limit_may_be_carried_along_and_the_comparison_fused():
    text = program(
        [
            "%zero = s32[] constant(0)",
            "%limit = s32[] constant(12)",
            "%init = (s32[], s32[]) tuple(%zero, %limit)",
            "ROOT %loop = (s32[], s32[]) while(%init), condition=%goes_on, body=%body",
        ],
        [
            "%compared (a: s32[], b: s32[]) -> pred[]",
            "%a = s32[] parameter(0)",
            "%b = s32[] parameter(1)",
            "ROOT %goes = pred[] compare(%a, %b), direction=LT",
        ],
        [
            "%goes_on (p: (s32[], s32[])) -> pred[]",
            "%p = (s32[], s32[]) parameter(0)",
            "%i = s32[] get-tuple-element(%p), index=0",
            "%n = s32[] get-tuple-element(%p), index=1",
            "ROOT %goes = pred[] fusion(%i, %n), kind=kLoop, calls=%compared",
        ],
        [
            "%body (p: (s32[], s32[])) -> (s32[], s32[])",
            "%p = (s32[], s32[]) parameter(0)",
            "%i = s32[] get-tuple-element(%p), index=0",
            "%n = s32[] get-tuple-element(%p), index=1",
            "%three = s32[] constant(3)",
            "%next = s32[] add(%i, %three)",
            "%same = s32[] copy(%n)",
            "ROOT %r = (s32[], s32[]) tuple(%next, %same)",
        ],
    )
    assert trips(text) == [4]


def test_a_loop_may_carry_one_number_only():
    text = program(
        [
            "%start = s32[] constant(2)",
            "ROOT %loop = s32[] while(%start), condition=%condition, body=%body",
        ],
        ["%condition (i: s32[]) -> pred[]", "%i = s32[] parameter(0)", *COUNT_TO_8],
        [
            "%body (i: s32[]) -> s32[]",
            "%i = s32[] parameter(0)",
            "ROOT %next = s32[] multiply(%i, %i)",
        ],
    )
    assert trips(text) == [2]  # 2, 4, 16.


def test_a_count_that_depends_on_data_is_refused():
    match = r"trip count of while.5 \(jit\(function\)/while\) is unknown.*Pass trips="
    with pytest.raises(ValueError, match=match):
        trips(reference("data_loop"))
    limit_is_input = ["ROOT %goes = pred[] compare(%i, %x), direction=LT"]
    with pytest.raises(ValueError, match="trip count of loop .* is unknown"):
        trips(loop(limit_is_input, STEP_BY_1))


def test_a_loop_without_end_is_refused(monkeypatch):
    monkeypatch.setattr("snapvideo_jax.planning.forecast.loops._LONGEST_LOOP", 100)
    stands_still = ["%next = s32[] copy(%i)", "%y = s32[] copy(%x)"]
    with pytest.raises(ValueError, match="runs 100 times or more"):
        trips(loop(COUNT_TO_8, stands_still))
