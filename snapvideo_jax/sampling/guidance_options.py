"""Guidance as the command line asks for it: settings, guiding model, what is kept."""

import dataclasses
import re
from pathlib import Path
from typing import Any

from snapvideo_jax import config as configs

NEED_A_WEIGHT = ("oscillate", "guidance_interval", "negative_prompt")
"""Options that change how a weight is applied."""


def guidance_of(
    experiment: configs.Experiment, options, weight: float
) -> configs.Experiment:
    """The experiment, guided as the command line asks.

    Args:
      experiment: of the run.
      options: a `SamplerOptions`.
      weight: ``g`` of the request.

    Raises:
      ValueError: settings that make no sense, alone or together.
    """
    given = {name: getattr(options, name) for name in NEED_A_WEIGHT}
    idle = [name for name, value in given.items() if value]
    if idle and not weight:
        raise ValueError(
            f"--{idle[0]} does nothing at a guidance weight of g = 0 (1 + g = 1); give "
            "--guidance above 0 too."
        )
    changes = {
        name: value
        for name in ("oscillate", "threshold", "negative_prompt", "autoguidance")
        if (value := getattr(options, name)) is not None
    }
    if options.guidance_interval is not None:
        changes["interval"] = options.guidance_interval
    guidance = dataclasses.replace(experiment.guidance, **changes)
    if weight and guidance.negative_prompt:
        experiment.text.check([guidance.negative_prompt])
    return dataclasses.replace(experiment, guidance=guidance)


def guide_of(
    experiment: configs.Experiment, options
) -> tuple[configs.Experiment, Path, int | None] | None:
    """The experiment, the workdir and the step of --autoguide; None without it.

    Raises:
      ValueError: there is no run, or one that cannot guide ``experiment``.
    """
    if not options.autoguide:
        return None
    found = re.fullmatch(r"(.+)@(\d+)", options.autoguide)
    workdir, step = (found[1], int(found[2])) if found else (options.autoguide, None)
    file = Path(workdir) / "config.json"
    if not file.is_file():
        raise ValueError(
            f"--autoguide={options.autoguide} holds no run: {file} is missing."
        )
    theirs = configs.build(configs.from_json(file.read_text()))
    ours, others = _what_must_agree(experiment), _what_must_agree(theirs)
    for name, value in ours.items():
        if others[name] != value:
            raise ValueError(
                f"--autoguide={options.autoguide} cannot guide this run: its {name} "
                f"is {others[name]}, and here it is {value}; use a run in which they "
                "agree."
            )
    return theirs, Path(workdir), step


def about_guidance(
    experiment: configs.Experiment, options, weight: float
) -> dict[str, Any]:
    """How clips were guided, as it is written beside them; weights in both ways."""
    guidance = experiment.guidance
    return {
        "guidance_1_plus_g": 1 + weight,
        "guidance_settings": dataclasses.asdict(guidance)
        | {
            "low_1_plus_g": 1 + guidance.low,
            "autoguidance_g": guidance.autoguidance - 1,
        },
        "autoguide": options.autoguide,
    }


def _what_must_agree(experiment: configs.Experiment) -> dict[str, Any]:
    """What two networks have in common that see the same noisy clips and captions."""
    model, text = experiment.model, experiment.text
    return {
        "clip of frames, height and width": (model.frames, model.height, model.width),
        "number of channels": (model.in_channels, model.out_channels),
        "diffusion.sigma_in": experiment.diffusion.sigma_in,
        "text encoder of tokens and width": (
            type(text).__name__,
            text.tokens,
            text.width,
        ),
    }
