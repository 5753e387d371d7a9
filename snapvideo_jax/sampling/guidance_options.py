"""The guidance that options ask for, and its entries in the JSON of clips."""

import dataclasses
from typing import Any

from snapvideo_jax.config import Experiment
from snapvideo_jax.sampling.options import SamplerOptions

NEED_A_WEIGHT = ("oscillate", "guidance_interval", "negative_prompt")
"""Options that change how a weight is applied."""


def guidance_of(
    experiment: Experiment, options: SamplerOptions, weight: float
) -> Experiment:
    """The experiment with the guidance settings of the options.

    Args:
      experiment: of the run.
      options: of the sampler.
      weight: ``g`` of the requests.

    Raises:
      ValueError: a setting is out of range, or has no effect without a weight.
    """
    idle = [name for name in NEED_A_WEIGHT if getattr(options, name)]
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


def about_guidance(
    experiment: Experiment, options: SamplerOptions, weight: float
) -> dict[str, Any]:
    """How clips are guided, for their JSON; weights in both conventions.

    Args:
      experiment: of `guidance_of`.
      options: of the sampler.
      weight: ``g`` of the requests.
    """
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
