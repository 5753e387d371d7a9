"""Compiled programs for the tests of the forecast: of the compiler, and by hand."""

import pathlib

REFERENCES = pathlib.Path(__file__).parent / "references"


def reference(name):
    """The text of a program that ``references/make_hlo.py`` made."""
    return (REFERENCES / f"{name}.hlo").read_text(encoding="utf-8")


def program(entry, *computations, devices=1):
    """The text of a program from lines; the first of a computation is its header."""
    texts = [f"HloModule by_hand, is_scheduled=true, num_partitions={devices}\n"]
    for header, *lines in [*computations, ["ENTRY %main () -> f32[]", *entry]]:
        texts.append("\n".join([f"{header} {{", *(f"  {line}" for line in lines), "}"]))
    return "\n\n".join(texts) + "\n"


def loop(condition, body, start=0, attributes="", carried="s32[]"):
    """A program that is one loop over (counter, carried).

    Args:
      condition: lines that end with the value, from ``%i`` and ``%x``.
      body: lines that make ``%next`` and ``%y``, from ``%i`` and ``%x``.
      start: of the counter.
    """
    shape = f"(s32[], {carried})"
    take = [
        f"%p = {shape} parameter(0)",
        "%i = s32[] get-tuple-element(%p), index=0",
        f"%x = {carried} get-tuple-element(%p), index=1",
    ]
    return program(
        [
            f"%start = s32[] constant({start})",
            f"%input = {carried} parameter(0)",
            f"%init = {shape} tuple(%start, %input)",
            f"ROOT %loop = {shape} while(%init), condition=%condition, body=%body"
            + attributes,
        ],
        [f"%condition (p: {shape}) -> pred[]", *take, *condition],
        [
            f"%body (p: {shape}) -> {shape}",
            *take,
            *body,
            f"ROOT %r = {shape} tuple(%next, %y)",
        ],
    )
