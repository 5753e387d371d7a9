"""docs/plans.md: the plans that are kept, as tables."""

from collections.abc import Iterable, Mapping
from typing import Any

Plan = Mapping[str, Any]

INTRODUCTION = """\
# Plans

Written by `snapvideo plan --golden NAME`; not to be edited. Every row is a real program
of this repository, compiled for a topology that was not there. Memory, operations and
collectives are the compiler's. Times are forecasts from the scheduled programs, not
measurements: no TPU has run them yet (`decisions.md`, section 9). *Raw* takes every
matrix product at 95% of the peak; *calibrated* is slower by as much as published steps
are than their own forecasts; *cycles* are the compiler's estimates, which are
pessimistic. Days and costs follow the calibrated time where there is one.
"""


def page(plans: Mapping[str, Plan], commands: Mapping[str, str]) -> str:
    """The page.

    Args:
      plans: those that are kept, by name.
      commands: command lines of all that should be, by name.
    """
    steps = {n: p for n, p in plans.items() if p["program"] == "train step"}
    samplers = {n: p for n, p in plans.items() if p["program"] == "sampler"}
    missing = [name for name in commands if name not in plans]
    parts = [INTRODUCTION]
    if steps:
        parts += ["## Train steps\n", _layouts(steps), _times(steps), _runs(steps)]
    if samplers:
        parts += ["## Samplers\n", _samplers(samplers)]
    if plans:
        parts += ["## Memory, GB of one device\n", _memory(plans)]
        parts += ["## Operations, TFLOP of one device\n", _operations(plans)]
        parts += ["## Collectives that nothing overlaps\n", _synchronous(plans)]
    parts += ["## Commands\n", _commands(commands)]
    if missing:
        parts += ["Not generated yet: " + ", ".join(missing) + ".\n"]
    return "\n".join(parts)


def _layouts(plans: Mapping[str, Plan]) -> str:
    return _table(
        ("plan", "topology", "mesh", "remat", "microbatches", "batch", "parameters"),
        (
            (
                name,
                _topology(plan),
                _mesh(plan),
                plan["remat"],
                plan["microbatches"],
                f"{plan['batch']:,}",
                f"{plan['parameters']:,}",
            )
            for name, plan in plans.items()
        ),
    )


def _times(plans: Mapping[str, Plan]) -> str:
    """Seconds of a step, and what share of the peak they are."""
    header = ("plan", "compute s", "exposed s", "hidden s", "step s", "by cycles s")
    header += ("calibrated s", "MFU raw", "cycles", "calibrated")
    return _table(
        header,
        (
            (
                name,
                *(
                    _seconds(plan, part)
                    for part in ("compute", "exposed", "hidden", "step", "by_cycles")
                ),
                _seconds(plan, "calibrated"),
                *(_mfu(plan, part) for part in ("step", "by_cycles", "calibrated")),
            )
            for name, plan in plans.items()
        ),
    )


def _runs(plans: Mapping[str, Plan]) -> str:
    """What the whole run takes."""
    return _table(
        ("plan", "steps a day", "days", "chip-hours", "clips a second"),
        (
            (name, *(_number(plan, field) for field in
             ("steps_per_day", "days", "chip_hours", "clips_per_second")))
            for name, plan in plans.items()
        ),
    )  # fmt: skip


def _samplers(plans: Mapping[str, Plan]) -> str:
    header = ("plan", "topology", "mesh", "clips at once", "evaluations", "batch s")
    header += ("clip s", "chip-seconds a clip", "by cycles, batch s", "MFU raw")
    return _table(
        (*header, "cycles"),
        (
            (
                name,
                _topology(plan),
                _mesh(plan),
                plan["batch"],
                plan["evaluations"],
                _seconds(plan, "batch"),
                _number(plan, "seconds_per_clip"),
                _number(plan, "chip_seconds_per_clip"),
                _seconds(plan, "by_cycles"),
                _mfu(plan, "batch"),
                _mfu(plan, "by_cycles"),
            )
            for name, plan in plans.items()
        ),
    )


def _memory(plans: Mapping[str, Plan]) -> str:
    kinds = ("parameters", "optimizer", "ema", "batch", "temporaries", "peak", "limit")

    def size(plan, kind):
        return f"{plan['bytes'][kind] / 1e9:.3g}" if kind in plan["bytes"] else ""

    return _table(
        ("plan", *kinds, "fits"),
        (
            (
                name,
                *(size(plan, kind) for kind in kinds),
                "yes" if plan["fits"] else "**no**",
            )
            for name, plan in plans.items()
        ),
    )


def _operations(plans: Mapping[str, Plan]) -> str:
    rows = []
    for name, plan in plans.items():
        if flops := plan.get("flops"):
            model, program = (flops[key] / 1e12 for key in ("model", "program"))
            ratio = f"{flops['program_over_model']:.3f}"
            rows.append((name, f"{model:.4g}", f"{program:.4g}", ratio))
    return _table(("plan", "of the model", "of the program", "ratio"), rows)


def _synchronous(plans: Mapping[str, Plan]) -> str:
    header = ("plan", "collective", "type", "axis", "times", "MB", "largest MB", "ms")
    return _table(
        header,
        (
            (
                name,
                row["op"],
                row["dtype"],
                row["axis"],
                row["count"],
                f"{row['bytes'] / 1e6:.3g}",
                f"{row['largest'] / 1e6:.3g}",
                f"{row['seconds'] * 1e3:.3g}",
            )
            for name, plan in plans.items()
            for row in plan.get("collectives", ())
            if not row["overlapped"]
        ),
    )


def _commands(commands: Mapping[str, str]) -> str:
    lines = [f"{name}:\n\n    {command}\n" for name, command in commands.items()]
    return "\n".join(lines)


def _table(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """A table in Markdown; its first column is text, the others are flush right."""
    header = list(header)
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def _topology(plan: Plan) -> str:
    many = f"{plan['slices']} x " if plan["slices"] > 1 else ""
    return f"{many}{plan['topology']}"


def _mesh(plan: Plan) -> str:
    return ", ".join(f"{axis} {size}" for axis, size in plan["mesh"].items()) or "1"


def _seconds(plan: Plan, name: str) -> str:
    seconds = plan.get("seconds", {}).get(name)
    return "" if seconds is None else f"{seconds:.4g}"


def _mfu(plan: Plan, name: str) -> str:
    share = plan.get("mfu", {}).get(name)
    return "" if share is None else f"{share:.3f}"


def _number(plan: Plan, name: str) -> str:
    value = plan.get(name)
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
