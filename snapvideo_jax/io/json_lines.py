"""JSON Lines files, and metrics stored as JSON."""

import json
import math
from pathlib import Path
from typing import Any

from snapvideo_jax.io.files import write_atomically


def read(path: Path) -> list[Any]:
    """The entries of a file; none where it does not exist.

    A last line without a newline, which is still being written, is skipped.
    """
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def finite(value: Any) -> Any:
    """A JSON value, with null in place of NaN and infinity."""
    if isinstance(value, dict):
        return {str(name): finite(each) for name, each in value.items()}
    if isinstance(value, list):
        return [finite(each) for each in value]
    is_finite = not isinstance(value, float) or math.isfinite(value)
    return value if is_finite else None


def truncate_after(path: Path, resume_step: int | None) -> None:
    """Removes lines of steps after ``resume_step``, and a line cut by a crash."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    retained = [line for line in lines if _is_valid(line, resume_step)]
    if retained != lines:
        write_atomically(path, "".join(retained).encode())


def _is_valid(line: str, resume_step: int | None) -> bool:
    try:
        step = json.loads(line)["step"]
    except json.JSONDecodeError:
        return False
    return line.endswith("\n") and (resume_step is None or step <= resume_step)


def read_metrics(folder: Path) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The metrics in the JSON files of a folder of clips.

    These are the metrics of `snapvideo evaluate`, the shares of `snapvideo judge`, and
    the last line of metrics.jsonl.

    Returns:
      Numbers by file name and metric; and messages about files that cannot be read.
    """
    found, wrong = {}, []
    files = [path for path in folder.glob("*.json") if not path.stem.isdecimal()]
    for path in sorted([*files, *folder.glob("metrics.jsonl")]):
        try:
            if path.suffix == ".jsonl":
                lines = path.read_text(encoding="utf-8").splitlines()
                content = json.loads(lines[-1]) if lines else {}
                numbers = {k: v for k, v in content.items() if _is_number(v)}
            else:
                numbers = _numbers_of(json.loads(path.read_bytes()))
        except (OSError, ValueError, AttributeError) as error:
            wrong.append(f"{path}: unusable metrics ({error})")
            continue
        if numbers:
            found[path.name] = finite(numbers)
    return found, wrong


def _numbers_of(content: Any) -> dict[str, float]:
    """The metrics or shares in the content of a file, by name."""
    content = content if isinstance(content, dict) else {}
    metrics, shares = content.get("metrics"), content.get("shares")
    numbers = {}
    for name, metric in metrics.items() if isinstance(metrics, dict) else ():
        value = metric.get("value") if isinstance(metric, dict) else metric
        if _is_number(value):
            numbers[name] = value
    for name, share in shares.items() if isinstance(shares, dict) else ():
        if _is_number(share):
            numbers[f"obeyed: {name}"] = share
    return numbers


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
