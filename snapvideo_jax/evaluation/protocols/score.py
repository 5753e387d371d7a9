"""Scoring the clips of a protocol: `snapvideo evaluate` for every point and view.

Real clips are read once for a view; their statistics serve all points. What was scored
is not scored again, by the shards of evaluate.
"""

import argparse
import csv
import dataclasses
import io
import json
import logging
from pathlib import Path
from typing import Any

import jax

from snapvideo_jax.evaluation import evaluate as evaluation
from snapvideo_jax.evaluation.clips import MANIFEST
from snapvideo_jax.evaluation.protocols import curves
from snapvideo_jax.evaluation.protocols.generate import ABOUT
from snapvideo_jax.evaluation.protocols.settings import (
    Point,
    Protocol,
    chosen_points,
    protocol_of,
)
from snapvideo_jax.evaluation.results import read_result
from snapvideo_jax.evaluation.settings import FRECHET
from snapvideo_jax.io.files import write_atomically, write_json
from snapvideo_jax.io.options import check_least

logger = logging.getLogger(__name__)


def score(arguments) -> None:
    """`snapvideo protocol score`.

    Raises:
      ValueError: clips are missing, or options make no sense; before any is scored.
    """
    check_least(arguments, evaluation.LEAST)
    about = read_about(Path(arguments.samples))
    protocol = _protocol(about)
    points = chosen_points(protocol, arguments.only)
    metrics = _metrics(protocol, arguments)
    for point in points:
        _manifest(arguments, point)
    rows, known = [], {}
    for view in protocol.views:
        of_view = [m for m in protocol.metrics_of(view) if m in metrics]
        for point in points if of_view else ():
            out = Path(arguments.out) / point.name / view
            asked = _asked(arguments, protocol, about, point, view, of_view, out)
            asked.against = str(known.get(view) or arguments.against or "") or None
            evaluation.check(asked)
            evaluation.evaluate(asked)
            if arguments.against and any(m in FRECHET for m in of_view):
                known.setdefault(view, out / "real_statistics")
            if jax.process_index() == 0:
                rows.append(_row(point, view, read_result(out / "result.json")))
    if jax.process_index() == 0:
        _report(arguments, protocol, about, rows)


def read_about(samples: Path) -> dict[str, Any]:
    """What `snapvideo protocol generate` noted of a folder.

    Raises:
      ValueError: it made none.
    """
    try:
        return json.loads((samples / ABOUT).read_text())
    except (OSError, ValueError) as error:
        raise ValueError(
            f"--samples={samples} is no folder of snapvideo protocol generate "
            f"({ABOUT}: {error})."
        ) from error


def _protocol(about: dict[str, Any]) -> Protocol:
    """The protocol that clips were made by."""
    made = about["protocol"]
    changed = {
        name: tuple(made[name]) if isinstance(made[name], list) else made[name]
        for name in ("guidances", "step_counts", "solvers", "num_samples", "fps")
    }
    return dataclasses.replace(protocol_of(made["name"]), **changed)


def _metrics(protocol: Protocol, arguments) -> tuple[str, ...]:
    """Those of the protocol, or some of them.

    Raises:
      ValueError: others are asked for, or they need real clips.
    """
    asked = protocol.metrics
    if arguments.metrics:
        asked = tuple(arguments.metrics.split(","))
        for metric in asked:
            if metric not in protocol.metrics:
                raise ValueError(
                    f"--metrics={metric} is not of {protocol.name}; use some of "
                    f"{','.join(protocol.metrics)}."
                )
    if not arguments.against and any(metric in FRECHET for metric in asked):
        raise ValueError(
            "--against is missing: the real clips, or the folder of their statistics; "
            "or leave distances out by --metrics."
        )
    return asked


def _manifest(arguments, point: Point) -> Path:
    """The list of a point's clips.

    Raises:
      ValueError: clips are missing.
    """
    path = Path(arguments.samples) / point.name / MANIFEST
    if not path.is_file():
        there = len(list(path.parent.glob("[0-9]*.json")))
        raise ValueError(
            f"{path} is not there: {there} clips of {point.name} are made. The same "
            "command of snapvideo protocol generate makes the others; or use --only."
        )
    return path


def _asked(
    arguments,
    protocol: Protocol,
    about: dict[str, Any],
    point: Point,
    view: str,
    metrics: list[str],
    out: Path,
) -> argparse.Namespace:
    """The options of `snapvideo evaluate` that a protocol stands for."""
    frames, height, width = about["clip"]
    clips = _manifest(arguments, point)
    if arguments.clips:
        clips = _elsewhere(clips, Path(arguments.clips) / point.name, out)
    return argparse.Namespace(
        clips=str(clips),
        out=str(out),
        metrics=",".join(metrics),
        weights=arguments.weights,
        features=arguments.features,
        frames=frames,
        fps=None,  # what was made has the right rate already, and all frames count
        position="start",
        real_fps=protocol.fps,
        real_position=protocol.position,
        seed=0,
        size=f"{height}x{width}" if protocol.match_size else None,
        view=view,
        image_frames=protocol.image_frames,
        fvd=arguments.fvd,
        fid=arguments.fid,
        clip=arguments.clip,
        splits=arguments.splits,
        batch=arguments.batch,
        shards=arguments.shards,
        threads=arguments.threads,
        selfcheck=False,
    )


def _elsewhere(manifest: Path, folder: Path, out: Path) -> Path:
    """The same list, of clips in another folder: those that a cascade enlarged.

    Raises:
      ValueError: one is not there.
    """
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    for line in lines:
        stem = folder / Path(line["video"]).stem
        found = [
            p for p in (stem.with_suffix(s) for s in (".png", ".mp4")) if p.is_file()
        ]
        if not found:
            raise ValueError(f"--clips: {stem}.png and .mp4 are not there.")
        line["video"] = str(found[0].absolute())
    path = out / MANIFEST
    if jax.process_index() == 0:
        text = "\n".join(map(json.dumps, lines)) + "\n"
        write_atomically(path, text.encode())
    evaluation.distributed.barrier(f"listed {out}")
    return path


def _row(point: Point, view: str, result: dict[str, Any]) -> dict[str, Any]:
    """A line of the table."""
    found: dict[str, Any] = {
        "point": point.name,
        "view": view,
        "guidance": point.guidance,
        "guidance_1_plus_g": 1 + point.guidance,
        "solver": point.solver,
        "steps": point.steps,
        "comparable": result["comparable"],
    }
    for metric, one in result["metrics"].items():
        found[metric] = one["value"]
        found[f"{metric}_n"] = one["n"]
        if "n_real" in one:
            found[f"{metric}_n_real"] = one["n_real"]
        if "std" in one:
            found[f"{metric}_std"] = one["std"]
    return found


def _report(
    arguments, protocol: Protocol, about: dict[str, Any], rows: list[dict]
) -> None:
    """Writes the table, and of a sweep its curve; prints both."""
    out = Path(arguments.out)
    unlike = departures(protocol, about)
    result = {
        "protocol": about["protocol"],
        "made": {k: v for k, v in about.items() if k != "protocol"},
        "departures": unlike,
        "rows": rows,
    }
    write_json(out / "result.json", result)
    write_atomically(out / "table.csv", as_csv(rows).encode())
    print(describe(protocol, rows, unlike))
    if protocol.is_sweep:
        for path in curves.draw(protocol, rows, out):
            print(path)
    print(out / "result.json")


def departures(protocol: Protocol, about: dict[str, Any]) -> list[str]:
    """How what was made differs from the paper's protocol."""
    paper = protocol_of(protocol.name).described()
    made = about["protocol"]
    found = [
        f"{name} is {made[name]}, not {paper[name]}"
        for name in ("num_samples", "fps", "guidances", "step_counts", "solvers")
        if made[name] != paper[name]
    ]
    if about["clip"][0] != protocol.frames:
        found.append(f"clips have {about['clip'][0]} frames, not {protocol.frames}")
    return found


def as_csv(rows: list[dict[str, Any]]) -> str:
    """Rows as text with commas; what a row lacks is empty."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def describe(protocol: Protocol, rows: list[dict[str, Any]], unlike: list[str]) -> str:
    """The table as lines of text, with the paper's numbers beside."""
    metrics = [m for m in protocol.metrics if any(m in row for row in rows)]
    lines = [f"{protocol.name} ({protocol.paper})", ""]
    width = max(len(row["point"]) for row in rows) + 1
    lines.append(f"{'':<{width}}{'':<8}" + "".join(f"{m:>20}" for m in metrics))
    for row in rows:
        target = protocol.targets.get(row["view"], {})
        cells = ""
        for metric in metrics:
            text = f"{row[metric]:.5g}" if metric in row else ""
            if metric in row and metric in target:
                text += f" (paper {target[metric]:g})"
            cells += f"{text:>20}"
        lines.append(f"{row['point']:<{width}}{row['view']:<8}{cells}")
    lines += [f"NOT THE PAPER'S PROTOCOL: {each}" for each in unlike]
    if not all(row["comparable"] for row in rows):
        lines.append(
            "RANDOM FEATURES: these numbers are not comparable with any others."
        )
    return "\n".join(lines)
