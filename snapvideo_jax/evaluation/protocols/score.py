"""Scores the clips of a protocol: `evaluate` for every point and view.

Real clips are read once for each view; their statistics serve all points. Shards that
are complete are not scored again.
"""

import csv
import dataclasses
import io
import json
import logging
from pathlib import Path
from typing import Any, NamedTuple

import jax

from snapvideo_jax.evaluation.clips import MANIFEST
from snapvideo_jax.evaluation.evaluate import RESULT, evaluate
from snapvideo_jax.evaluation.protocols import curves
from snapvideo_jax.evaluation.protocols.generate import ABOUT
from snapvideo_jax.evaluation.protocols.settings import (
    Point,
    Protocol,
    protocol_of,
    select_points,
)
from snapvideo_jax.evaluation.results import RANDOM
from snapvideo_jax.evaluation.settings import FRECHET, EvaluateOptions, ScorerOptions
from snapvideo_jax.io.files import write_atomically, write_json
from snapvideo_jax.parallel import coordinator

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoreOptions(ScorerOptions):
    """Options of `snapvideo protocol score`.

    Attributes:
      samples: folder that `generate` filled.
      out: folder of the results.
      against: real clips or their statistics; None leaves out Frechet distances.
      clips: folder of the same clips in another size, in folders named as the points.
      metrics: of the protocol's; None is all.
      only: names of points; None is all.
    """

    samples: Path
    out: Path
    against: Path | None = None
    clips: Path | None = None
    metrics: tuple[str, ...] | None = None
    only: tuple[str, ...] | None = None


class Scores(NamedTuple):
    """The table of a protocol.

    protocol: that the clips were sampled by.
    rows: a value for every column, by point and view.
    departures: how the clips differ from the paper's protocol.
    files: that were written, apart from table.csv.
    """

    protocol: Protocol
    rows: list[dict[str, Any]]
    departures: list[str]
    files: list[Path]


def score(options: ScoreOptions) -> Scores | None:
    """Scores all points in all views; writes result.json, table.csv and curve.png.

    Returns:
      The table in process 0, None in the others.

    Raises:
      ValueError: clips are missing, or options are invalid; before any is scored.
    """
    about = read_about(options.samples)
    protocol = _protocol(about)
    points = select_points(protocol, options.only)
    metrics = _metrics(protocol, options)
    for point in points:
        _manifest(options.samples, point)
    rows, real = [], {}
    for view in protocol.views:
        of_view = tuple(m for m in protocol.metrics_of(view) if m in metrics)
        for point in points if of_view else ():
            asked = _evaluation(options, protocol, about, point, view, of_view)
            asked = dataclasses.replace(asked, against=real.get(view, options.against))
            result = evaluate(asked)
            if options.against and any(m in FRECHET for m in of_view):
                real.setdefault(view, asked.out / "real_statistics")
            if result is not None:
                rows.append(_row(point, view, result))
                values = ", ".join(
                    f"{name} {each['value']:.6g}"
                    for name, each in result["metrics"].items()
                )
                logger.info("%s, %s: %s", point.name, view, values)
    if jax.process_index() == 0:
        return _write(options.out, protocol, about, rows)


def read_about(samples: Path) -> dict[str, Any]:
    """The settings that `generate` wrote to a folder.

    Raises:
      ValueError: it did not fill the folder.
    """
    try:
        return json.loads((samples / ABOUT).read_text())
    except (OSError, ValueError) as error:
        raise ValueError(
            f"--samples={samples} is not a folder of snapvideo protocol generate "
            f"({ABOUT}: {error})."
        ) from error


def _protocol(about: dict[str, Any]) -> Protocol:
    """The protocol that clips were sampled by."""
    used = about["protocol"]
    changed = {
        name: tuple(used[name]) if isinstance(used[name], list) else used[name]
        for name in ("guidances", "step_counts", "solvers", "num_samples", "fps")
    }
    return dataclasses.replace(protocol_of(used["name"]), **changed)


def _metrics(protocol: Protocol, options: ScoreOptions) -> tuple[str, ...]:
    """The metrics that are computed.

    Raises:
      ValueError: the protocol lacks one, or one needs real clips.
    """
    asked = options.metrics or protocol.metrics
    for metric in asked:
        if metric not in protocol.metrics:
            raise ValueError(
                f"--metrics={metric} is not of {protocol.name}; use some of "
                f"{','.join(protocol.metrics)}."
            )
    if not options.against and any(metric in FRECHET for metric in asked):
        raise ValueError(
            "--against is missing: the real clips, or the folder of their statistics; "
            "or leave distances out by --metrics."
        )
    return asked


def _manifest(samples: Path, point: Point) -> Path:
    """The manifest of a point.

    Raises:
      ValueError: clips are missing.
    """
    path = samples / point.name / MANIFEST
    if not path.is_file():
        done = len(list(path.parent.glob("[0-9]*.json")))
        raise ValueError(
            f"{path} is missing: {done} clips of {point.name} are complete. Run the "
            "same snapvideo protocol generate for the others; or use --only."
        )
    return path


def _evaluation(
    options: ScoreOptions,
    protocol: Protocol,
    about: dict[str, Any],
    point: Point,
    view: str,
    metrics: tuple[str, ...],
) -> EvaluateOptions:
    """The options of `evaluate` for a point and a view."""
    frames, height, width = about["clip"]
    out = options.out / point.name / view
    clips = _manifest(options.samples, point)
    if options.clips:
        clips = _relocated(clips, options.clips / point.name, out)
    shared = {
        field.name: getattr(options, field.name)
        for field in dataclasses.fields(ScorerOptions)
    }
    return EvaluateOptions(
        **shared,
        clips=clips,
        out=out,
        metrics=metrics,
        frames=frames,  # generated clips have the right rate, and all frames count
        real_fps=protocol.fps,
        real_position=protocol.position,
        size=(height, width) if protocol.match_size else None,
        view=view,
        image_frames=protocol.image_frames,
    )


def _relocated(manifest: Path, folder: Path, out: Path) -> Path:
    """A manifest of the same clips in another folder, as an upsampler writes them.

    Raises:
      ValueError: one is missing.
    """
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    for line in lines:
        stem = folder / Path(line["video"]).stem
        found = [
            p for p in (stem.with_suffix(s) for s in (".png", ".mp4")) if p.is_file()
        ]
        if not found:
            raise ValueError(f"--clips: {stem}.png and .mp4 are missing.")
        line["video"] = str(found[0].absolute())
    path = out / MANIFEST
    if jax.process_index() == 0:
        text = "\n".join(map(json.dumps, lines)) + "\n"
        write_atomically(path, text.encode())
    coordinator.barrier(f"listed {out}")
    return path


def _row(point: Point, view: str, result: dict[str, Any]) -> dict[str, Any]:
    """A row of the table."""
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


def _write(
    out: Path, protocol: Protocol, about: dict[str, Any], rows: list[dict[str, Any]]
) -> Scores:
    """Writes the table, and the curve of a sweep."""
    unlike = departures(protocol, about)
    result = {
        "protocol": about["protocol"],
        "made": {k: v for k, v in about.items() if k != "protocol"},
        "departures": unlike,
        "rows": rows,
    }
    write_json(out / RESULT, result)
    write_atomically(out / "table.csv", as_csv(rows).encode())
    files = curves.draw(protocol, rows, out) if protocol.is_sweep else []
    return Scores(protocol, rows, unlike, [*files, out / RESULT])


def departures(protocol: Protocol, about: dict[str, Any]) -> list[str]:
    """How the clips differ from the paper's protocol."""
    paper = protocol_of(protocol.name).described()
    used = about["protocol"]
    found = [
        f"{name} is {used[name]}, not {paper[name]}"
        for name in ("num_samples", "fps", "guidances", "step_counts", "solvers")
        if used[name] != paper[name]
    ]
    if about["clip"][0] != protocol.frames:
        found.append(f"clips have {about['clip'][0]} frames, not {protocol.frames}")
    return found


def as_csv(rows: list[dict[str, Any]]) -> str:
    """Rows as CSV; missing values are empty."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def describe(scores: Scores) -> str:
    """The table as lines of text, with the paper's values."""
    protocol, rows = scores.protocol, scores.rows
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
    lines += [f"NOT THE PAPER'S PROTOCOL: {each}" for each in scores.departures]
    if not all(row["comparable"] for row in rows):
        lines.append(RANDOM)
    return "\n".join(lines)
