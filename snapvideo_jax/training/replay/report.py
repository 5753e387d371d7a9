"""The replay of a step: its report and its sheet."""

import json
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import repeat

from snapvideo_jax.data import captions_of
from snapvideo_jax.io import media
from snapvideo_jax.io.json_lines import finite
from snapvideo_jax.state import Params
from snapvideo_jax.training.replay import samples
from snapvideo_jax.training.replay.rebuild import (
    RebuiltStep,
    ReplayOptions,
    agreement,
    rebuild,
)

SHOWN = 64
"""Samples on a sheet unless rows are given: those with the largest losses."""
TILE_WIDTH = 200
"""Least width of a sample's three clips on the sheet, in pixels, for its label."""


def replay(options: ReplayOptions) -> dict[str, Any]:
    """Replays a step, writes its sheet and ``replay.json``, and returns the latter.

    Raises:
      ValueError: as `rebuild.rebuild`.
    """
    rebuilt = rebuild(options)
    losses, sigma = samples.row_losses(rebuilt)
    rows = options.samples
    if rows is None:
        worst = np.argsort(np.where(np.isfinite(losses), -losses, -np.inf))
        rows = sorted(worst[:SHOWN].tolist())
    numbers = rebuilt.rows["sample"][list(rows)]
    files = captions_of(rebuilt.joint, numbers)
    looks = list(samples.view_samples(rebuilt, rows))
    about = [
        {
            "row": int(row),
            "sample": int(rebuilt.rows["sample"][row]),
            "file": files[k][0],
            "caption": files[k][1],
            "loss": float(losses[row]),
            "sigma": float(sigma[row]),
            "grad_norm": looks[k].grad_norm,
            "finite": math.isfinite(losses[row] + looks[k].grad_norm),
        }
        for k, row in enumerate(rows)
    ]
    _write_sheet(options.folder / "sheet", looks, about, rebuilt.experiment.sheets)
    report = finite(_report(rebuilt, losses, sigma) | {"samples": about})
    (options.folder / "replay.json").write_text(json.dumps(report, indent=2))
    return report


def _report(rebuilt: RebuiltStep, losses, sigma) -> dict[str, Any]:
    """The report of the whole step; runs it, which donates the state."""
    bad = _nonfinite(rebuilt.state.params)
    differences = rebuilt.differences()
    loss, norm = rebuilt.loss_and_norm()
    recorded, agreed = rebuilt.recorded, {}
    if recorded:
        agreed["digest"] = "different" if differences else "equal"
        if not (rebuilt.approximate or differences):
            agreed["loss"] = agreement(recorded.loss, loss)
            agreed["grad_norm"] = agreement(recorded.grad_norm, norm)
    return {
        "step": rebuilt.step,
        "from_checkpoint": rebuilt.begun_at,
        "steps_done_again": rebuilt.rerun,
        "approximate": rebuilt.approximate,
        "nonfinite_parameters": bad,
        "digest": {
            "recorded": recorded and recorded.digest,
            "replayed": rebuilt.digest,
        },
        "loss": {"recorded": recorded and recorded.loss, "replayed": loss},
        "grad_norm": {"recorded": recorded and recorded.grad_norm, "replayed": norm},
        "agreement": agreed,
        "differences": [vars(each) for each in differences],
        "losses": losses.tolist(),
        "sigmas": sigma.tolist(),
        "nonfinite_rows": np.flatnonzero(~np.isfinite(losses)).tolist(),
    }


def _nonfinite(params: Params) -> list[str]:
    """Names of parameters that are not finite."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return [
        jax.tree_util.keystr(path)
        for path, leaf in leaves
        if not jnp.isfinite(leaf).all()
    ]


def _write_sheet(stem: Path, looks, about, sheets) -> None:
    """Each sample as three clips: itself, the network's input, the denoised clip."""
    frames = max(len(look.clip) for look in looks)
    tiles = [
        np.concatenate(
            [
                clip
                if len(clip) == frames
                else repeat(clip[0], "... -> t ...", t=frames)
                for clip in (look.clip, look.noisy, look.denoised)
            ],
            axis=2,
        )
        for look in looks
    ]
    labels = [
        f"{'' if one['finite'] else 'NOT FINITE '}row {one['row']} "
        f"loss {one['loss']:.3g} grad {one['grad_norm']:.3g} sigma {one['sigma']:.2g}: "
        f"{one['caption']}"
        for one in about
    ]
    columns = max(1, round((len(tiles) / 2) ** 0.5))
    scale = max(sheets.scale, TILE_WIDTH // tiles[0].shape[2])
    made = media.contact_sheet(np.stack(tiles), columns, labels, scale=scale)
    media.write_gif(stem.with_suffix(".gif"), made, sheets.fps or 4.0)
    media.write_png(stem.with_suffix(".png"), made[len(made) // 2][None])


def describe(report: dict[str, Any], out: Path) -> str:
    """The report as text."""
    begun = f"the checkpoint of step {report['from_checkpoint']}"
    if not report["from_checkpoint"]:
        begun = "the initial state"
    how = f"{begun}, and {report['steps_done_again']} recomputed steps"
    if report["approximate"]:
        how = f"{begun}, as an approximation: later steps were not recomputed"
    lines = [f"step {report['step']}    from {how}"]
    for name in ("digest", "loss", "grad_norm"):
        pair, agreed = report[name], report["agreement"].get(name, "not compared")
        lines.append(
            f"{name:<10} {pair['replayed']}, in the ledger {pair['recorded']}: {agreed}"
        )
    lines += [
        f"  row {each['row']} (sample {each['sample']}, {each['file']}): "
        f"{each['reason']}"
        for each in report["differences"]
    ]
    if report["nonfinite_parameters"]:
        bad = report["nonfinite_parameters"]
        lines.append(f"{len(bad)} parameters are not finite before it, as {bad[0]}")
    for one in report["samples"]:
        if not one["finite"]:
            lines.append(
                f"not finite: row {one['row']} (sample {one['sample']}, "
                f"{one['file']}): {one['caption']}"
            )
    lines.append(f"{len(report['samples'])} samples: {out / 'sheet.gif'}")
    return "\n".join(lines)
