"""Judges clips of generated shapes: the share of prompts that a model obeys."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from snapvideo_jax.data.shapes.dataset import held_out_prompts
from snapvideo_jax.data.shapes.judge import judge as judge_clip
from snapvideo_jax.sampling import loading
from snapvideo_jax.sampling.generator import Generator, requests_of
from snapvideo_jax.sampling.guidance_options import about_guidance, guidance_of
from snapvideo_jax.sampling.options import (
    SamplerOptions,
    sampler_of,
    settings_of,
    weights_of,
)
from snapvideo_jax.sampling.outputs import write_sheet

FIELDS = ("colour", "shape", "direction")


@dataclasses.dataclass(frozen=True, kw_only=True)
class JudgeOptions(SamplerOptions):
    """Options of `snapvideo judge`.

    Attributes:
      workdir: of the run.
      out: folder of judged.json and the contact sheet.
      count: number of held-out prompts; 1 or more.
    """

    workdir: Path
    out: Path
    count: int = 64


def judge(options: JudgeOptions) -> dict[str, Any] | None:
    """Samples held-out prompts and judges the clips.

    Returns:
      The content of OUT/judged.json, with the shares of obeyed prompts, in process 0;
      None in the others.

    Raises:
      ValueError: an option does not suit the run.
    """
    experiment, params, step, mesh = loading.load(
        options.workdir, options.ema, options.ema_profile
    )
    sampler = sampler_of(experiment, options)
    settings = settings_of(experiment, options)
    asked = held_out_prompts(options.count)
    prompts = [prompt for prompt, _ in asked]
    experiment = guidance_of(experiment, options, settings["guidance"])
    guide = loading.load_guide(experiment, options, mesh)
    generator = Generator(experiment, sampler, mesh, guide)
    clips = np.concatenate(
        [
            generator(params, request)
            for request in requests_of(prompts, options.batch, **settings)
        ]
    )
    if jax.process_index() != 0:
        return None
    rows = [
        _row(*pair, judge_clip(clip)) for pair, clip in zip(asked, clips, strict=True)
    ]
    shares = {name: float(np.mean([row[name] for row in rows])) for name in FIELDS}
    shares["all"] = float(np.mean([row["obeyed"] for row in rows]))
    result = settings | about_guidance(experiment, options, settings["guidance"])
    result |= {"sampler": dataclasses.asdict(sampler)}
    result |= {"step": step, "weights": weights_of(options)}
    result |= {"shares": shares, "clips": rows}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "judged.json").write_text(json.dumps(result, indent=2))
    labels = [("" if row["obeyed"] else "NOT: ") + row["prompt"] for row in rows]
    write_sheet(options.out / "sheet", clips, labels, experiment.sheets)
    return result


def _row(prompt: str, asked: tuple[str, str, str], seen) -> dict[str, Any]:
    found = {name: getattr(seen, name) for name in FIELDS}
    right = {
        name: found[name] == want for name, want in zip(FIELDS, asked, strict=True)
    }
    return {"prompt": prompt, "found": found, "obeyed": all(right.values())} | right
