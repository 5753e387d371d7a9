"""What `snapvideo train --dry-run` prints: sizes and memory, nothing allocated."""

import dataclasses
import json

import flax.linen as nn
import jax
from ml_collections import ConfigDict

from snapvideo_jax import config as configs
from snapvideo_jax.io.messages import human_bytes
from snapvideo_jax.models.flops import flops_forward
from snapvideo_jax.parallel import layout_report
from snapvideo_jax.parallel.layout_report import checked_shardings
from snapvideo_jax.parallel.sharding import AXES, bytes_per_device
from snapvideo_jax.state import abstract_state
from snapvideo_jax.training.checkpoints import warm_start
from snapvideo_jax.training.checkpoints.ema_snapshots import budget, describe_budget


def describe(config: ConfigDict) -> dict:
    """What --dry-run prints: sizes and memory, computed without allocating anything."""
    experiment = configs.build(config)
    boxed = abstract_state(experiment)
    sizes = dataclasses.asdict(experiment.mesh)
    sizes["data"] = max(sizes["data"], 1)
    mesh = jax.sharding.AbstractMesh(tuple(sizes.values()), AXES)
    places = checked_shardings(boxed, mesh)
    shapes = nn.unbox(boxed)
    memory = {
        name: bytes_per_device(getattr(shapes, name), getattr(places, name))
        for name in ("params", "opt_state", "ema", "powers")
        if jax.tree.leaves(getattr(shapes, name))
    }
    where, begins = experiment.run.init_from, None
    if where:
        first, _, _ = warm_start.open_source(where)
        begins = dataclasses.asdict(warm_start.check_source(experiment, first))
    return {
        "config": json.loads(configs.to_json(config)),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(shapes.params)),
        "tokens": experiment.model.tokens(experiment.text.tokens),
        "forward_flops_per_sample": flops_forward(experiment),
        "batch": experiment.data.batch,
        "mesh": dict(mesh.shape),
        "state_bytes_per_device": memory | {"total": sum(memory.values())},
        "ema_snapshots": budget(experiment),
        "init_from": begins,
        "layout": layout_report.report(boxed.params, places.params),
    }


def print_description(description: dict, as_json: bool) -> None:
    """The description as JSON, or as text for people."""
    if as_json:
        print(json.dumps(description))
        return
    print(json.dumps(description["config"], indent=2))
    memory = description["state_bytes_per_device"]
    tokens = description["tokens"]
    print(f"parameters        {description['parameters']:,}")
    print("tokens            " + ", ".join(f"{n:,} {k}" for k, n in tokens.items()))
    print(f"forward FLOPs     {description['forward_flops_per_sample']:.4g} a sample")
    print(f"batch             {description['batch']:,}")
    print(
        "mesh              "
        + ", ".join(f"{axis} {size}" for axis, size in description["mesh"].items())
    )
    print(
        "state per device  "
        + ", ".join(f"{name} {human_bytes(size)}" for name, size in memory.items())
    )
    if description["ema_snapshots"]["snapshots"]:
        print(f"EMA snapshots     {describe_budget(description['ema_snapshots'])}")
    if begins := description["init_from"]:
        print(f"init_from         {warm_start.Transplant(**begins)}")
    print("layout of the parameters")
    print(layout_report.describe(description["layout"]))
