"""What `snapvideo train --dry-run` reports: sizes and memory; allocates nothing."""

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


def dry_run(config: ConfigDict) -> dict:
    """Parameters, tokens, FLOPs and the bytes of the state per device, from shapes."""
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


def describe(report: dict) -> str:
    """The report of `dry_run` as text."""
    memory, begins = report["state_bytes_per_device"], report["init_from"]
    tokens = ", ".join(f"{n:,} {kind}" for kind, n in report["tokens"].items())
    mesh = ", ".join(f"{axis} {size}" for axis, size in report["mesh"].items())
    state = ", ".join(f"{name} {human_bytes(size)}" for name, size in memory.items())
    lines = [
        json.dumps(report["config"], indent=2),
        f"parameters        {report['parameters']:,}",
        f"tokens            {tokens}",
        f"forward FLOPs     {report['forward_flops_per_sample']:.4g} a sample",
        f"batch             {report['batch']:,}",
        f"mesh              {mesh}",
        f"state per device  {state}",
    ]
    if report["ema_snapshots"]["snapshots"]:
        lines.append(f"EMA snapshots     {describe_budget(report['ema_snapshots'])}")
    if begins:
        lines.append(f"init_from         {warm_start.Transplant(**begins)}")
    lines += ["layout of the parameters", layout_report.describe(report["layout"])]
    return "\n".join(lines)
