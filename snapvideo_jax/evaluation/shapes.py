"""Judges clips of generated shapes: the share of prompts that a model obeys."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from snapvideo_jax.data.shapes.dataset import held_out_prompts
from snapvideo_jax.data.shapes.judge import judge as judge_clip
from snapvideo_jax.sampling.generator import requests_of
from snapvideo_jax.sampling.guidance_options import about_guidance
from snapvideo_jax.sampling.loading import Setup
from snapvideo_jax.sampling.options import SamplerOptions, weights_of
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
    asked = held_out_prompts(options.count)
    prompts = [prompt for prompt, _ in asked]
    setup = Setup.of(options.workdir, options)  # longer prompts are cut
    run = setup.load()
    generator = run.generator()
    requests = requests_of(prompts, options.batch, **setup.settings)
    clips = np.concatenate([generator(run.params, request) for request in requests])
    if jax.process_index() != 0:
        return None
    rows = [
        _row(*pair, judge_clip(clip)) for pair, clip in zip(asked, clips, strict=True)
    ]
    shares = {name: float(np.mean([row[name] for row in rows])) for name in FIELDS}
    shares["all"] = float(np.mean([row["obeyed"] for row in rows]))
    guidance = setup.settings["guidance"]
    result = setup.settings | about_guidance(setup.experiment, options, guidance)
    result |= {"sampler": dataclasses.asdict(setup.sampler)}
    result |= {"step": run.step, "weights": weights_of(options)}
    result |= {"shares": shares, "clips": rows}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "judged.json").write_text(json.dumps(result, indent=2))
    labels = [("" if row["obeyed"] else "NOT: ") + row["prompt"] for row in rows]
    write_sheet(options.out / "sheet", clips, labels, setup.experiment.sheets)
    return result


def _row(prompt: str, asked: tuple[str, str, str], seen) -> dict[str, Any]:
    found = {name: getattr(seen, name) for name in FIELDS}
    right = {
        name: found[name] == want for name, want in zip(FIELDS, asked, strict=True)
    }
    return {"prompt": prompt, "found": found, "obeyed": all(right.values())} | right
