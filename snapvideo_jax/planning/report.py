"""A plan as text."""

from typing import Any

from snapvideo_jax.io.messages import human_bytes
from snapvideo_jax.planning import nearest


def describe(result: dict[str, Any]) -> str:
    """A plan as lines of text."""
    memory = result["bytes"]
    mesh = ", ".join(f"{axis} {size}" for axis, size in result["mesh"].items())
    lines = [
        f"topology      {result['slices']} x {result['topology']}, "
        f"{result['devices']} devices: {mesh or 'not sharded'}",
        _program(result),
        f"parameters    {result['parameters']:,}",
        "memory        "
        + ", ".join(f"{name} {human_bytes(size, 4)}" for name, size in memory.items()),
    ]
    if not result["fits"]:
        short = human_bytes(memory["peak"] - memory["limit"], 4)
        lines.append(f"does NOT fit  by {short} a device")
    if "nearest" in result:
        lines.append(nearest.describe(result["nearest"], memory["limit"]))
    if "flops" in result:
        lines += [*_time(result), *map(_collective, result["collectives"])]
    return "\n".join(lines)


def _program(result: dict[str, Any]) -> str:
    if result["program"] == "sampler":
        return (
            f"sampler       batch {result['batch']:,}, {result['steps']} steps of "
            f"{result['solver']}, guidance {result['guidance']:g} "
            f"(1 + g = {1 + result['guidance']:g}): "
            f"{result['evaluations']} evaluations"
        )
    return (
        f"step          batch {result['batch']:,} in {result['microbatches']} parts, "
        f"remat {result['remat']}"
    )


def _time(result: dict[str, Any]) -> list[str]:
    flops, seconds, mfu = (result[name] for name in ("flops", "seconds", "mfu"))
    unit = "step" if result["program"] == "train step" else "batch"
    lines = [
        f"FLOPs         {flops['model'] / 1e12:.4g} T of the model a device and {unit} "
        f"({flops['passes']:.3g} forward passes), the program's are "
        f"{flops['program_over_model']:.3g} times that",
        f"forecast      {_seconds(seconds[unit])} a {unit}: compute "
        f"{_seconds(seconds['compute'])}, exposed communication "
        f"{_seconds(seconds['exposed'])} (hidden {_seconds(seconds['hidden'])})",
        "              "
        + ", ".join(f"{n} {_seconds(seconds[n])} = {mfu[n]:.3f} MFU" for n in mfu),
    ]
    if unit == "batch":
        return [
            *lines,
            f"clips         {_seconds(result['seconds_per_clip'])} a clip, "
            f"{result['chip_seconds_per_clip']:.3g} chip-seconds; "
            f"{result['clips_per_second']:.3g} clips a second",
        ]
    return [
        *lines,
        f"run           {result['steps_per_day']:,.0f} steps a day, "
        f"{result['days']:.1f} days, {result['chip_hours']:,.0f} chip-hours",
        f"input         {result['clips_per_second']:,.0f} clips a second",
    ]


def _collective(row: dict[str, Any]) -> str:
    how = "overlapped" if row["overlapped"] else "EXPOSED"
    return (
        f"  {row['op']} {row['dtype']} over {row['axis'] or 'nothing'}: "
        f"{row['count']} x, {human_bytes(row['bytes'], 4)}, "
        f"largest {human_bytes(row['largest'], 4)}, "
        f"{_seconds(row['seconds'])} {how}"
    )


def _seconds(seconds: float) -> str:
    return f"{seconds:.3f} s" if seconds >= 0.1 else f"{seconds * 1e3:.3g} ms"
