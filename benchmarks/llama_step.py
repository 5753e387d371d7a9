"""Calibrates the forecast of a step with Llama 70B, whose speed on TPUs is published.

    python benchmarks/llama_step.py v5p
    python benchmarks/llama_step.py v6e

Schedules a training step of the published shape, batch and number of chips, and prints
the forecast and the published time. It needs libtpu, but no TPU. A second process
compiles, and is stopped as soon as the compiler has dumped the scheduled program: the
forecast does not need the code, whose generation takes hours for products of this size.
"""

import argparse
import dataclasses
import math
import multiprocessing
import os
import re
import tempfile
import time
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["TPU_SKIP_MDS_QUERY"] = "1"
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")

import jax  # noqa: E402  (reads the environment above)
import jax.numpy as jnp  # noqa: E402
import optax  # noqa: E402
from jax.ad_checkpoint import checkpoint_name  # noqa: E402
from jax.experimental import mesh_utils, topologies  # noqa: E402
from jax.experimental.pallas.ops.tpu.splash_attention import (  # noqa: E402
    splash_attention_kernel,
    splash_attention_mask,
)
from jax.sharding import Mesh, NamedSharding, PartitionSpec  # noqa: E402

from snapvideo_jax.parallel.chips import CHIPS  # noqa: E402
from snapvideo_jax.planning.forecast import CALIBRATIONS, forecast, splash_kernels


@dataclasses.dataclass(frozen=True)
class Llama:
    """A published training run, as in MaxText's benchmark configs.

    Attributes:
      topology: of the slice; parameters and batch are sharded over all chips.
      vocabulary, length: number of tokens in the vocabulary and in a sequence.
      batch: sequences per chip.
      saved: names of activations that are saved for the backward pass.
      on_host: whether they are offloaded to the host.
      block: of queries and keys in attention.
      fused_backward: one attention kernel computes all gradients.
      counted: share of the scores that the published MFU counts: the value at which its
        MFU and its tokens per second agree.
      tokens_per_second: per chip, as published.
      options: of the compiler.
      loss_parts: parts of the batch whose logits are computed in sequence, and
        recomputed for the gradient, as all 21 GB of them do not fit.
    """

    topology: str
    vocabulary: int
    length: int
    batch: int
    saved: tuple[str, ...]
    block: int
    fused_backward: bool
    counted: float
    tokens_per_second: float
    options: tuple[str, ...]
    on_host: bool = False
    loss_parts: int = 1
    layers: int = 80
    width: int = 8192
    hidden: int = 28672
    heads: int = 64
    key_heads: int = 8
    head_width: int = 128

    @property
    def chips(self) -> int:
        return math.prod(int(side) for side in self.topology.split(":")[1].split("x"))

    def shapes(self) -> dict[str, tuple[tuple[int, ...], PartitionSpec]]:
        """Shape and partition spec of each parameter; those of layers are stacked."""
        by_width, by_rest = (
            PartitionSpec(None, "fsdp"),
            PartitionSpec(None, None, "fsdp"),
        )
        keys = self.key_heads * self.head_width
        layer = {
            "query": ((self.width, self.width), by_width),
            "key": ((self.width, keys), by_width),
            "value": ((self.width, keys), by_width),
            "out": ((self.width, self.width), by_rest),
            "gate": ((self.width, self.hidden), by_width),
            "up": ((self.width, self.hidden), by_width),
            "down": ((self.hidden, self.width), by_rest),
            "attention_norm": ((self.width,), PartitionSpec()),
            "feed_forward_norm": ((self.width,), PartitionSpec()),
        }
        ends = {
            "embedding": ((self.vocabulary, self.width), by_width),
            "logits": ((self.width, self.vocabulary), PartitionSpec("fsdp")),
            "norm": ((self.width,), PartitionSpec()),
        }
        stacked = {n: ((self.layers, *size), at) for n, (size, at) in layer.items()}
        return stacked | ends

    def flops_per_token(self) -> float:
        """FLOPs of a training step without recomputation, as in the published MFU."""
        matrices = sum(
            shape[-2] * shape[-1] * (self.layers if len(shape) == 3 else 1)
            for name, (shape, _) in self.shapes().items()
            if len(shape) > 1 and name != "embedding" and not name.endswith("norm")
        )
        scores = 2 * self.layers * self.width * self.length * self.counted
        return 6 * (matrices + scores)


OVERLAP = (
    "xla_tpu_enable_data_parallel_all_reduce_opt=true",
    "xla_tpu_data_parallel_opt_different_sized_ops=true",
    "xla_tpu_enable_async_collective_fusion=true",
    "xla_tpu_enable_async_collective_fusion_fuse_all_gather=true",
    "xla_tpu_enable_async_collective_fusion_multiple_steps=true",
    "xla_tpu_overlap_compute_collective_tc=true",
    "xla_enable_async_all_gather=true",
)
"""MaxText's DATA_PARALLEL_OVERLAP and CF_FOR_ALL_GATHER."""

DENSE = (
    "xla_tpu_scoped_vmem_limit_kib=98304",
    "xla_tpu_use_minor_sharding_for_major_trivial_input=true",
    "xla_tpu_relayout_group_size_threshold_for_reduce_scatter=1",
    "xla_tpu_assign_all_reduce_scatter_layout=true",
)
"""MaxText's DENSE_VMEM_LIMIT_FLAG and LAYOUT_FOR_ALL_REDUCE_SCATTER, for Trillium."""

RUNS = {
    # llama2_70b_v5p_128 of benchmarks/maxtext_v5p_model_configs.py, on 512 chips.
    "v5p": Llama(
        topology="v5p:8x8x8",
        vocabulary=32000,
        length=4096,
        batch=4,
        saved=("query", "key", "value", "out"),
        block=512,
        fused_backward=False,
        counted=0.5,
        tokens_per_second=692,
        options=OVERLAP,
    ),
    # llama3_1_70b_8192 of benchmarks/maxtext_trillium_model_configs.py.
    "v6e": Llama(
        topology="v6e:16x16",
        vocabulary=128256,
        length=8192,
        batch=5,
        saved=("input", "query", "key", "value"),
        block=2048,
        fused_backward=True,
        counted=1.0,
        tokens_per_second=960,
        options=OVERLAP + DENSE,
        on_host=True,
        loss_parts=8,
    ),
}


def attention(model: Llama, mesh: Mesh):
    """Causal attention of a batch that is sharded over the chips."""
    mask = splash_attention_mask.CausalMask((model.length, model.length))
    block, fused = model.block, model.fused_backward
    sizes = splash_attention_kernel.BlockSizes(
        block_q=block,
        block_kv=block,
        block_kv_compute=block,
        block_q_dkv=block,
        block_kv_dkv=block,
        block_kv_dkv_compute=block,
        block_q_dq=None if fused else block,
        block_kv_dq=None if fused else block,
        use_fused_bwd_kernel=fused,
    )
    kernel = splash_attention_kernel.make_splash_mha(
        splash_attention_mask.MultiHeadMask([mask] * model.heads),
        block_sizes=sizes,
        head_shards=1,
        q_seq_shards=1,
    )
    sharded = PartitionSpec("fsdp")
    return jax.shard_map(
        jax.vmap(kernel),
        mesh=mesh,
        in_specs=(sharded,) * 3,
        out_specs=sharded,
        check_vma=False,
    )


def norm(x, scale):
    x = x.astype(jnp.float32)
    x = x * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-5)
    return (x * scale).astype(jnp.bfloat16)


def rotate(x):
    """Rotary position embedding of (batch, heads, tokens, width)."""
    half = x.shape[-1] // 2
    rate = 10_000.0 ** (-jnp.arange(half) / half)
    angle = jnp.arange(x.shape[2])[:, None] * rate
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    a, b = x[..., :half].astype(jnp.float32), x[..., half:].astype(jnp.float32)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], -1).astype(x.dtype)


def loss(params, tokens, model: Llama, mesh: Mesh):
    """Cross entropy of the next token, with bf16 products."""
    attend = attention(model, mesh)
    by_batch = NamedSharding(mesh, PartitionSpec("fsdp"))
    weights = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)

    def layer(x, w):
        def project(name):
            y = checkpoint_name(normed @ w[name], name)
            y = y.reshape(*y.shape[:2], -1, model.head_width)
            return y.transpose(0, 2, 1, 3)

        x = checkpoint_name(x, "input")
        normed = norm(x, w["attention_norm"])
        q, k, v = rotate(project("query")), rotate(project("key")), project("value")
        seen = attend(q * model.head_width**-0.5, k, v)
        seen = seen.transpose(0, 2, 1, 3).reshape(x.shape)
        x = x + checkpoint_name(seen @ w["out"], "out")
        normed = norm(x, w["feed_forward_norm"])
        hidden = jax.nn.silu(normed @ w["gate"]) * (normed @ w["up"])
        x = x + hidden @ w["down"]
        return jax.lax.with_sharding_constraint(x, by_batch), None

    if model.on_host:
        policy = jax.checkpoint_policies.save_and_offload_only_these_names(
            names_which_can_be_saved=(),
            names_which_can_be_offloaded=model.saved,
            offload_src="device",
            offload_dst="pinned_host",
        )
    else:
        policy = jax.checkpoint_policies.save_only_these_names(*model.saved)
    ends = ("embedding", "logits", "norm")
    layers = {name: leaf for name, leaf in weights.items() if name not in ends}
    x = jax.nn.one_hot(tokens, model.vocabulary, dtype=jnp.bfloat16)
    x = jax.lax.with_sharding_constraint(x @ weights["embedding"], by_batch)
    x, _ = jax.lax.scan(jax.checkpoint(layer, policy=policy), x, layers)

    def token_losses(x, following):
        logits = norm(x, weights["norm"]) @ weights["logits"]
        logits = jax.lax.with_sharding_constraint(logits, by_batch).astype(jnp.float32)
        chosen = jax.nn.one_hot(following, model.vocabulary)
        return jax.nn.logsumexp(logits, -1) - jnp.sum(logits * chosen, -1)

    def parts(y):
        # Each part has some tokens of each sequence, so that all chips share it.
        split = y.reshape(len(y), model.loss_parts, -1, *y.shape[2:])
        return jnp.moveaxis(split, 1, 0)

    following = jnp.roll(tokens, -1, 1)
    if model.loss_parts == 1:
        return jnp.mean(token_losses(x, following))
    part_losses = jax.checkpoint(lambda pair: token_losses(*pair))
    return jnp.mean(jax.lax.map(part_losses, (parts(x), parts(following))))


def compile_step(model: Llama) -> None:
    """Compiles the step of AdamW."""
    topology = topologies.get_topology_desc(
        platform="tpu", topology_name=model.topology
    )
    chips = len(topology.devices)
    devices = mesh_utils.create_device_mesh(
        (chips,), devices=topology.devices, allow_split_physical_axes=True
    )
    mesh = Mesh(devices, ("fsdp",))
    optimizer = optax.adamw(1e-4)

    def place(shape, spec, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))

    params = {name: place(*given) for name, given in model.shapes().items()}
    where = {name: leaf.sharding for name, leaf in params.items()}
    state = jax.eval_shape(optimizer.init, params)
    state = optax.tree_utils.tree_map_params(
        optimizer,
        lambda leaf, at: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at),
        state,
        where,
        transform_non_params=lambda leaf: place(
            leaf.shape, PartitionSpec(), leaf.dtype
        ),
    )
    size = (model.batch * chips, model.length)
    tokens = place(size, PartitionSpec("fsdp"), jnp.int32)

    def step(params, state, tokens):
        value, gradients = jax.value_and_grad(loss)(params, tokens, model, mesh)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, value

    shardings = jax.tree.map(lambda leaf: leaf.sharding, (params, state))
    jitted = jax.jit(
        step,
        donate_argnums=(0, 1),
        out_shardings=(*shardings, NamedSharding(mesh, PartitionSpec())),
    )
    options = dict(option.split("=") for option in model.options)
    jitted.lower(params, state, tokens).compile(options)


def scheduled(model: Llama) -> tuple[str, int]:
    """The scheduled program of a step, and its bytes of memory on a chip.

    Raises:
      RuntimeError: the compilation failed; its error is printed above.
    """
    with tempfile.TemporaryDirectory() as folder:
        # The new process reads it when it imports JAX.
        os.environ["XLA_FLAGS"] = (
            f"--xla_dump_to={folder} --xla_dump_hlo_as_text "
            "--xla_dump_hlo_module_re=jit_step"
        )
        compiling = multiprocessing.get_context("spawn").Process(
            target=compile_step, args=(model,)
        )
        compiling.start()
        try:
            # This file is written after those that are read here.
            while not _found(folder, "after_buffer_assignment.txt"):
                if not compiling.is_alive():
                    raise RuntimeError("The step did not compile.")
                time.sleep(1)
        finally:
            compiling.kill()
            compiling.join()
        text = _found(folder, "after_optimizations.txt")[0].read_text()
        report = _found(folder, "memory-usage-report.txt")[0].read_text()
    memory = re.search(r"Memory Space: default.*\nTotal bytes: (\d+)", report)
    return text, int(memory[1])


def _found(folder: str, ending: str) -> list[Path]:
    return list(Path(folder).glob(f"*jit_step*{ending}"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("chip", choices=RUNS)
    name = parser.parse_args().chip
    model, chip = RUNS[name], CHIPS[name]
    text, memory = scheduled(model)
    kernels = splash_kernels(
        density=(1 + model.block / model.length) / 2,
        fused_backward=model.fused_backward,
    )
    step = forecast(text, chip, mesh={"fsdp": model.chips}, kernels=kernels)
    tokens = model.batch * model.length
    flops = tokens * model.flops_per_token()
    mfu = step.mfu(flops, chip.peak_tflops)
    published = CALIBRATIONS[name].published
    print(f"memory {memory / 1e9:.1f} GB of {chip.hbm_bytes / 1e9:g} GB a chip")
    print(
        f"step {step.seconds:.3f} s: {step.compute_seconds:.3f} computation, "
        f"{step.exposed_seconds:.3f} exposed communication"
    )
    print(
        f"tokens/s/chip {tokens / step.seconds:.0f} forecast, "
        f"{model.tokens_per_second:g} published"
    )
    print(f"MFU {mfu:.3f} forecast, {published} published: {published / mfu:.3f}")


if __name__ == "__main__":
    main()
