"""Where a U-Net's time goes on a TPU and where FIT's does, block by block.

    python benchmarks/blocks_forecast.py --topology v5p:2x2x1 --clips 32

Every distinct block of both networks is compiled for one chip of a TPU that need not
be there, alone, forward and with its gradient, and its time is forecast as `snapvideo
plan` does. A whole U-Net takes the compiler more than ten minutes; its distinct blocks
are few. What lies between blocks is left out on both sides: stem and pixels,
patches, context tokens, noise, loss and optimizer. A training step is a forward pass
with its gradient, and of FIT 0.9 forward passes more for self-conditioning.
"""

import argparse
import collections
import json
import logging

import flax.linen as nn
import jax
import jax.numpy as jnp

from snapvideo_jax import config as configs
from snapvideo_jax.bench.models import FOLDER
from snapvideo_jax.forecast import forecast
from snapvideo_jax.models import fit
from snapvideo_jax.models.unet_blocks import Residual, TextAttention
from snapvideo_jax.plan import Target
from snapvideo_jax.plan.compile import _without_compile_cache
from snapvideo_jax.plan.flags import set_flags
from snapvideo_jax.plan.target import topology_devices
from snapvideo_jax.sharding import MeshConfig, laid_out, make_mesh

logger = logging.getLogger("blocks_forecast")
BF16, TEXT = jnp.bfloat16, 128


def of_unet(model, clips: int):
    """Kind, how often, the module and its inputs, of every distinct block."""
    counts = collections.Counter()
    for step in model.steps():
        # What comes into a block that resamples has the other size.
        rows, columns = model.size(step.level + step.resample)
        inside = (rows, columns, step.width_in)
        counts["residual", inside, step.width, step.resample] += 1
        if step.attends:
            for over in ("space", "time"):
                inside = (*model.size(step.level), step.width)
                counts[over, inside, step.width, 0] += 1
    shape = jax.ShapeDtypeStruct
    for (kind, inside, width, resample), count in counts.items():
        clip = shape((clips, model.frames, *inside), BF16)
        if kind == "residual":
            module = Residual(width, resample, model.norm_groups, 0.0, model.dtype)
            told = shape((clips, model.embedding_width), jnp.float32)
            inputs, static = (clip, told), (False,)
            kind = "resampling blocks" if resample else "residual blocks"
        else:
            sizes = (model.head_width, model.norm_groups, model.time, model.frames)
            module = TextAttention(kind, *sizes, model.dtype)
            text = shape((clips, TEXT, model.context_width), BF16)
            inputs, static = (clip, text, shape((clips, TEXT), bool)), ()
            kind = "spatial attention" if kind == "space" else "temporal attention"
        name = f"{inside[0]}x{inside[1]} {inside[2]}->{width}"
        yield kind, name, count, module, inputs, static


def of_fit(model, clips: int):
    """The same of a FIT: one block, which repeats."""
    shape = jax.ShapeDtypeStruct
    patches = (clips, model.groups, model.patches_per_group, model.patch_width)
    latents = (clips, model.latents, model.latent_width)
    tokens = TEXT + model.context_numbers
    inputs = (
        (shape(patches, BF16), shape(latents, BF16)),
        shape((clips, tokens, model.context_width), BF16),
        shape((clips, tokens), bool),
    )
    module = fit.Block(
        patch_heads=model.patch_width // model.patch_head_width,
        latent_heads=model.latent_width // model.latent_head_width,
        global_layers=model.global_layers,
        dropout=0.0,
        dtype=model.dtype,
    )
    yield "blocks", "all", model.blocks, module, inputs, (False,)


def programs(module, inputs, static, mesh):
    """The forward pass of a block, and that with its gradient."""

    def call(params, *given):
        return module.apply({"params": params}, *given, *static)

    @jax.eval_shape
    def params():
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), inputs)
        return nn.unbox(module.init(jax.random.key(0), *zeros, *static)["params"])

    def trained(params, gradient, *given):
        def smooth(params, first):
            return call(params, first, *given[1:])

        out, back = jax.vjp(smooth, params, given[0])
        return out, back(gradient)

    result = jax.eval_shape(call, params, *inputs)
    return {
        "forward": (jax.jit(laid_out(call, mesh)).lower, (params, *inputs)),
        "training": (jax.jit(laid_out(trained, mesh)).lower, (params, result, *inputs)),
    }


def costs(lower, arguments, mesh, chip):
    """Milliseconds, GFLOP and GB of a program, and what share memory decides about."""
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    placed = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        arguments,
    )
    with _without_compile_cache():
        compiled = lower(*placed).compile()
    timed = forecast(compiled.as_text(), chip, mesh=dict(mesh.shape))
    peak = 0.95 * chip.peak_tflops * 1e12
    products = sum(min(part.flops / peak, part.seconds) for part in timed.parts)
    return collections.Counter(
        milliseconds=1e3 * timed.seconds,
        products=1e3 * products,
        by_cycles=1e3 * timed.cycle_seconds,
        gflops=timed.flops / 1e9,
        gbytes=timed.hbm_bytes / 1e9,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--topology", default="v5p:2x2x1")
    parser.add_argument("--clips", type=int, default=32, help="of the chip at once")
    parser.add_argument("--what", default="forward,training")
    parser.add_argument("--out", help="JSON of all of it")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    set_flags()
    target = Target(arguments.topology)
    mesh = make_mesh(MeshConfig(data=1), 1, topology_devices(target)[:1])
    rows = {}
    for network, config, blocks in (
        ("fit-500m", "fit.py:size=500m", of_fit),
        ("unet-284m", "unet.py:size=284m", of_unet),
    ):
        model = configs.build(configs.load(str(FOLDER / config), [])).model
        for kind, name, count, module, inputs, static in blocks(model, arguments.clips):
            made = programs(module, inputs, static, mesh)
            for use in arguments.what.split(","):
                lower, given = made[use]
                found = costs(lower, given, mesh, target.chip)
                row = rows.setdefault(f"{network} {use}", {})
                total = row.setdefault(kind, collections.Counter())
                for key, value in found.items():
                    total[key] += count * value / arguments.clips
                logger.info("%s %s %s %s: %d x %s", network, use, kind, name, count,
                            {k: round(v, 3) for k, v in found.items()})  # fmt: skip
    for kinds in rows.values():
        kinds["all"] = sum(kinds.values(), collections.Counter())
    report = {
        "topology": arguments.topology, "clips": arguments.clips,
        "of one clip": {n: {k: dict(c) for k, c in r.items()} for n, r in rows.items()},
    }  # fmt: skip
    print(describe(report["of one clip"]))
    if arguments.out:
        with open(arguments.out, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=1)


def describe(rows) -> str:
    """What was found as lines of text, and FIT's speed over the U-Net's."""
    names = ("milliseconds", "products", "by_cycles", "gflops", "gbytes")
    lines = [f"{'':<20}{'':<20}" + "".join(f"{name:>14}" for name in names)]
    for row, kinds in rows.items():
        for kind, found in kinds.items():
            cells = "".join(f"{found[name]:>14.4g}" for name in names)
            lines.append(f"{row:<20}{kind:<20}{cells}")
    if "fit-500m forward" in rows and "unet-284m forward" in rows:
        fit, unet = rows["fit-500m forward"]["all"], rows["unet-284m forward"]["all"]
        times = {name: f"{unet[name] / fit[name]:.2f}" for name in names}
        lines.append(f"inference, FIT 500M over U-Net 284M: {times}")
        if "fit-500m training" in rows:
            trained = rows["fit-500m training"]["all"]
            slower = rows["unet-284m training"]["all"]
            times = {
                name: f"{slower[name] / (trained[name] + 0.9 * fit[name]):.2f}"
                for name in names
            }
            lines.append(f"training, with 0.9 passes more of FIT: {times}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
