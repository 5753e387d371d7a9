"""The networks of `bench models`, and their costs by part of the network.

FLOPs are counted from the shapes of the full sizes, without compiling. A plan for a TPU
topology adds the costs of the compiled program: FLOPs and bytes of its instructions,
and the forecast of their time.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from snapvideo_jax import config as configs
from snapvideo_jax.io import shipped
from snapvideo_jax.models.flops import train_factor


@dataclasses.dataclass(frozen=True)
class Network:
    """A network to compare.

    Attributes:
      config: in configs/, without a topology.
      paper: milliseconds a clip on an A100 for training and inference. [P] Tab. 2.
    """

    config: str
    paper: Mapping[str, float] = dataclasses.field(default_factory=dict)


NETWORKS = {
    "unet-85m": Network("unet.py:size=85m", dict(training=133.2, inference=49.6)),
    "unet-284m": Network("unet.py:size=284m", dict(training=230.3, inference=105.1)),
    "dit-flops": Network("dit.py:match=flops"),
    "dit-parameters": Network("dit.py:match=parameters"),
    "fit-500m": Network("fit.py:size=500m", dict(training=69.5, inference=23.4)),
    "fit-3p9b": Network("fit.py:size=3p9b", dict(training=526.0, inference=130.4)),
}


def by_part(name: str, planned: Mapping[str, Any] | None) -> dict[str, Any]:
    """The costs of one clip: of a forward pass, and of the planned programs.

    Args:
      name: of `NETWORKS`.
      planned: as from `models.planned_costs`; None without a plan.
    """
    path = str(shipped.CONFIGS / NETWORKS[name].config)
    experiment = configs.build(configs.load(path, []))
    model, text = experiment.model, experiment.text
    forward = model.forward_flops(text.tokens, text.width)
    share = experiment.training.self_conditioned_share
    return {
        "forward_gflops": {part: flops / 1e9 for part, flops in forward.items()},
        "train_passes": train_factor(share),
        "plan": dict(planned) if planned else None,
    }


def describe(found: Mapping[str, Mapping[str, Any]]) -> str:
    """What `models.by_part` returns as lines of text."""
    lines = []
    for name, row in found.items():
        forward = row["forward_gflops"]
        total = sum(forward.values())
        lines.append(
            f"{name}: {total:,.0f} GFLOP a clip and forward pass, from its shapes; "
            f"training is worth {row['train_passes']:.3g} of them"
        )
        for part, gflops in sorted(forward.items(), key=lambda one: -one[1]):
            lines.append(f"  {part:<28}{gflops:>10,.1f} GFLOP {gflops / total:>7.1%}")
        for use, plan in (row["plan"] or {}).items():
            lines += _planned(use, plan)
        lines.append("")
    return "\n".join(lines[:-1])


def _planned(use: str, plan: Mapping[str, Any]) -> list[str]:
    """The costs of a compiled program by part."""
    if "refusal" in plan:
        return [f" {use}: {plan['refusal']}"]
    parts = plan["parts"]
    if not parts:
        return [
            f" {use}: {plan['milliseconds']:.3g} ms by a plan without costs by part"
        ]
    seconds = sum(part["seconds"] for part in parts.values())
    lines = [
        f" {use}, compiled, of one clip:",
        f"  {'':<28}{'ms':>9}{'share':>8}{'in products':>13}{'GFLOP':>10}{'GB':>8}",
    ]
    for name, part in parts.items():
        took = part["seconds"]
        within = part["product_seconds"] / took
        lines.append(
            f"  {name:<28}{1e3 * took:>9.3f}{took / seconds:>8.1%}"
            f"{within:>13.0%}{part['flops'] / 1e9:>10,.0f}{part['bytes'] / 1e9:>8.2f}"
        )
    return lines
