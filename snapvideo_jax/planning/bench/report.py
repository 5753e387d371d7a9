"""The results of `measure.bench` as text."""

from typing import Any

from snapvideo_jax.io.messages import human_bytes
from snapvideo_jax.planning.bench import traces


def describe(result: dict[str, Any]) -> str:
    """What `measure.bench` returns as lines of text."""
    mesh = ", ".join(f"{axis} {size}" for axis, size in result["mesh"].items())
    lines = [
        f"devices       {result['devices']} x {result['device']}: {mesh or 'no mesh'}",
        f"config        batch {result['batch']:,}, {result['dtype']}, "
        f"remat {result['remat']}",
    ]
    for name, row in result["programs"].items():
        lines += _lines(name, row)
    if result["peak_tflops"] is None:
        lines.append(
            "no MFU        the peak of this device is unknown; give it as "
            "--config.run.peak_tflops"
        )
    if planned := result.get("plan"):
        lines += _plan_lines(planned, result)
    return "\n".join(lines)


def _lines(name: str, row: dict[str, Any]) -> list[str]:
    seconds, mfu = row["seconds"], row["mfu"]
    lines = [
        f"{name:<14}{seconds['median']:.4g} s, median of {row['runs']} (quartiles "
        f"{seconds['lower_quartile']:.4g} to {seconds['upper_quartile']:.4g})",
        f"  compiled    in {row['compile_seconds']:.1f} s",
        f"  clips       {row['clips_per_second']:.4g} a second, "
        f"{row['seconds_per_clip']:.4g} s each, {row['clips']:,} at once",
        f"  model       {row['model_tflops']:.4g} TFLOP, "
        f"{row['model_tflops_per_second']:.4g} TFLOP/s"
        + (f", MFU {mfu:.3f}" if mfu else ""),
    ]
    if row["bytes"]:
        sizes = (f"{key} {human_bytes(size)}" for key, size in row["bytes"].items())
        lines.append("  memory      " + ", ".join(sizes))
    return lines + traces.describe(row.get("profile") or {})


def _plan_lines(planned: dict[str, Any], result: dict[str, Any]) -> list[str]:
    """The forecast, for comparison with the measurement."""
    if not planned["fits"]:
        return [f"plan          {planned['topology']}: the step does not fit there"]
    seconds = planned["seconds"]["step"]
    measured = result["programs"]["train step"]["seconds"]["median"]
    return [
        f"plan          {planned['topology']}, {planned['devices']} devices: "
        f"{seconds:.4g} s, MFU {planned['mfu']['step']:.3f}, peak "
        f"{human_bytes(planned['bytes']['peak'])} a device",
        f"              measured / forecast = {measured / seconds:.3g}, on "
        f"{result['devices']} devices here",
    ]
