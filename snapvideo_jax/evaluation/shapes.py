"""Judges clips of generated shapes: the share of prompts that a model obeys."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np

from snapvideo_jax.data.shapes.dataset import held_out_prompts
from snapvideo_jax.data.shapes.judge import judge
from snapvideo_jax.sampling import loading, options
from snapvideo_jax.sampling.generator import Generator, requests_of
from snapvideo_jax.sampling.guidance_options import about_guidance, guidance_of
from snapvideo_jax.sampling.outputs import write_sheet

FIELDS = ("colour", "shape", "direction")


def judge_clips(arguments, experiment, params, step, mesh) -> None:
    """Samples held-out prompts, judges the clips, prints and writes the shares.

    Args:
      arguments: of the command line.
      experiment, params, step, mesh: as from `sample.load`.
    """
    sampler = options.sampler_of(experiment, arguments)
    settings = options.settings_of(experiment, arguments)
    asked = held_out_prompts(arguments.count)
    prompts = [prompt for prompt, _ in asked]
    experiment = guidance_of(experiment, arguments, settings["guidance"])
    guide = loading.load_guide(experiment, arguments, mesh)
    generator = Generator(experiment, sampler, mesh, guide)
    clips = np.concatenate(
        [
            generator(params, request)
            for request in requests_of(prompts, arguments.batch, **settings)
        ]
    )
    if jax.process_index() != 0:
        return
    rows = [_row(*pair, judge(clip)) for pair, clip in zip(asked, clips, strict=True)]
    shares = {name: float(np.mean([row[name] for row in rows])) for name in FIELDS}
    shares["all"] = float(np.mean([row["obeyed"] for row in rows]))
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    result = settings | about_guidance(experiment, arguments, settings["guidance"])
    result |= {"sampler": dataclasses.asdict(sampler)}
    result |= {"step": step, "weights": options.weights_of(arguments)}
    result |= {"shares": shares, "clips": rows}
    (out / "judged.json").write_text(json.dumps(result, indent=2))
    labels = [("" if row["obeyed"] else "NOT: ") + row["prompt"] for row in rows]
    write_sheet(out / "sheet", clips, labels, experiment.sheets)
    print(
        f"{shares['all']:.1%} of {len(rows)} held-out prompts obeyed in colour, shape "
        f"and direction (colour {shares['colour']:.1%}, shape {shares['shape']:.1%}, "
        f"direction {shares['direction']:.1%}); chance is 1.4%."
    )


def _row(prompt: str, asked: tuple[str, str, str], seen) -> dict:
    found = {name: getattr(seen, name) for name in FIELDS}
    right = {
        name: found[name] == want for name, want in zip(FIELDS, asked, strict=True)
    }
    return {"prompt": prompt, "found": found, "obeyed": all(right.values())} | right
