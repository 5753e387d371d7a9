"""docs/plans.md: the golden plans as tables."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

Plan = Mapping[str, Any]
Columns = Mapping[str, Callable[[Plan], Any]]

INTRODUCTION = """\
# Plans

Written by `snapvideo plan --golden NAME`; do not edit. Each row is a program of this
repository, compiled ahead of time for a TPU topology. Memory, operations and
collectives are the compiler's. Times are forecasts from the scheduled programs, not
measurements: no TPU has run them yet (`decisions.md`, section 9). *Raw* assumes that
every matrix product runs at 95% of the peak; *calibrated* is slower by the ratio of
published step times to their own forecasts; *cycles* are the compiler's estimates,
which are pessimistic. Days and costs use the calibrated time where there is one.
"""


def page(plans: Mapping[str, Plan], commands: Mapping[str, str]) -> str:
    """The page.

    Args:
      plans: golden plans that are generated, by name.
      commands: command lines of all golden plans, by name.
    """
    steps = {n: p for n, p in plans.items() if p["program"] == "train step"}
    samplers = {n: p for n, p in plans.items() if p["program"] == "sampler"}
    missing = [name for name in commands if name not in plans]
    parts = [INTRODUCTION]
    if steps:
        parts += ["## Train steps\n", _rows(steps, LAYOUT)]
        parts += [_rows(steps, TIMES), _rows(steps, RUN)]
    if samplers:
        parts += ["## Samplers\n", _rows(samplers, SAMPLER)]
    if plans:
        with_flops = {name: plan for name, plan in plans.items() if "flops" in plan}
        parts += ["## Memory, GB of one device\n", _rows(plans, MEMORY)]
        parts += ["## Operations, TFLOP of one device\n", _rows(with_flops, OPERATIONS)]
        parts += ["## Collectives that are not overlapped\n", _synchronous(plans)]
    parts += ["## Commands\n"]
    parts += [f"{name}:\n\n    {command}\n" for name, command in commands.items()]
    if missing:
        parts += ["Not generated yet: " + ", ".join(missing) + ".\n"]
    return "\n".join(parts)


def _topology(plan: Plan) -> str:
    many = f"{plan['slices']} x " if plan["slices"] > 1 else ""
    return f"{many}{plan['topology']}"


def _mesh(plan: Plan) -> str:
    return ", ".join(f"{axis} {size}" for axis, size in plan["mesh"].items()) or "1"


def _value(name: str, form: str, within: str = "", unit: float = 1.0) -> Callable:
    """A number of a plan, or of one of its parts, as text; empty if it has none."""

    def text(plan: Plan) -> str:
        value = (plan.get(within, {}) if within else plan).get(name)
        return "" if value is None else format(value / unit, form)

    return text


def _number(name: str) -> Callable[[Plan], str]:
    def text(plan: Plan) -> str:
        value = plan.get(name)
        if value is None:
            return ""
        return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"

    return text


LAYOUT: Columns = {
    "topology": _topology,
    "mesh": _mesh,
    "remat": lambda plan: plan["remat"],
    "microbatches": lambda plan: plan["microbatches"],
    "batch": lambda plan: f"{plan['batch']:,}",
    "parameters": lambda plan: f"{plan['parameters']:,}",
}
TIMES: Columns = {
    "compute s": _value("compute", ".4g", "seconds"),
    "exposed s": _value("exposed", ".4g", "seconds"),
    "hidden s": _value("hidden", ".4g", "seconds"),
    "step s": _value("step", ".4g", "seconds"),
    "by cycles s": _value("by_cycles", ".4g", "seconds"),
    "calibrated s": _value("calibrated", ".4g", "seconds"),
    "MFU raw": _value("step", ".3f", "mfu"),
    "cycles": _value("by_cycles", ".3f", "mfu"),
    "calibrated": _value("calibrated", ".3f", "mfu"),
}
"""Seconds of a step, and shares of the peak."""
RUN: Columns = {
    "steps a day": _number("steps_per_day"),
    "days": _number("days"),
    "chip-hours": _number("chip_hours"),
    "clips a second": _number("clips_per_second"),
}
"""Of the whole run."""
SAMPLER: Columns = {
    "topology": _topology,
    "mesh": _mesh,
    "clips at once": lambda plan: plan["batch"],
    "evaluations": lambda plan: plan["evaluations"],
    "batch s": _value("batch", ".4g", "seconds"),
    "clip s": _number("seconds_per_clip"),
    "chip-seconds a clip": _number("chip_seconds_per_clip"),
    "by cycles, batch s": _value("by_cycles", ".4g", "seconds"),
    "MFU raw": _value("batch", ".3f", "mfu"),
    "cycles": _value("by_cycles", ".3f", "mfu"),
}
KINDS = ("parameters", "optimizer", "ema", "batch", "temporaries", "peak", "limit")
MEMORY: Columns = {
    **{kind: _value(kind, ".3g", "bytes", 1e9) for kind in KINDS},
    "fits": lambda plan: "yes" if plan["fits"] else "**no**",
}
OPERATIONS: Columns = {
    "of the model": _value("model", ".4g", "flops", 1e12),
    "of the program": _value("program", ".4g", "flops", 1e12),
    "ratio": _value("program_over_model", ".3f", "flops"),
}


def _rows(plans: Mapping[str, Plan], columns: Columns) -> str:
    return _table(
        ("plan", *columns),
        (
            (name, *(of(plan) for of in columns.values()))
            for name, plan in plans.items()
        ),
    )


def _synchronous(plans: Mapping[str, Plan]) -> str:
    header = ("plan", "collective", "type", "axis", "times", "MB", "largest MB", "ms")
    return _table(
        header,
        (
            (
                *(name, row["op"], row["dtype"], row["axis"], row["count"]),
                f"{row['bytes'] / 1e6:.3g}",
                f"{row['largest'] / 1e6:.3g}",
                f"{row['seconds'] * 1e3:.3g}",
            )
            for name, plan in plans.items()
            for row in plan.get("collectives", ())
            if not row["overlapped"]
        ),
    )


def _table(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """A Markdown table; its first column is text, the others are right-aligned."""
    header = list(header)
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)
