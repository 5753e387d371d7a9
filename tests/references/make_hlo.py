"""Writes the compiled programs in this folder, which tests of the forecast read.

    python tests/references/make_hlo.py [name ...]

Needs libtpu, no TPU. What no test reads is cut out of the texts: tables of source lines
and the machine code of Pallas kernels. Another version of the compiler makes other
programs, and requires new hand counts in the tests.
"""

import os
import pathlib
import re
import sys

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["TPU_SKIP_MDS_QUERY"] = "1"

import jax  # noqa: E402  (reads the environment above)
import jax.numpy as jnp  # noqa: E402
from jax.experimental import pallas, topologies  # noqa: E402
from jax.experimental.pallas.ops.tpu.splash_attention import (  # noqa: E402
    splash_attention_kernel,
    splash_attention_mask,
)
from jax.sharding import Mesh, NamedSharding, PartitionSpec  # noqa: E402

FOLDER = pathlib.Path(__file__).parent
NONE = PartitionSpec()
X = PartitionSpec("x")


def mesh_of(name, count=None):
    """One axis over the first devices of a topology."""
    devices = topologies.get_topology_desc(platform="tpu", topology_name=name).devices
    return Mesh(devices[:count], ("x",))


def compiled(function, mesh, *arguments, **options):
    """The program of arrays given as (shape, dtype, layout)."""
    placed = [
        jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, layout))
        for shape, dtype, layout in arguments
    ]
    return jax.jit(function).lower(*placed).compile(options)


def scan():
    """Three layers whose weights are divided over four chips and gathered when used."""

    def layers(x, weights):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0]

    weights = ((3, 1024, 1024), jnp.bfloat16, PartitionSpec(None, "x"))
    return compiled(
        layers,
        mesh_of("v5e:2x2"),
        ((2048, 1024), jnp.bfloat16, X),
        weights,
        # Else the gathering is taken apart and spread over the product.
        xla_jf_spmd_threshold_for_windowed_einsum_mib="100000",
    )


def nested():
    """A loop of five runs in which a loop of seven multiplies."""

    def function(a):
        def inner(_, x):
            return jnp.tanh(x @ a)

        return jax.lax.fori_loop(
            0, 5, lambda _, x: jax.lax.fori_loop(2, 9, inner, x), a
        )

    matrix = ((256, 256), jnp.bfloat16, NONE)
    return compiled(function, mesh_of("v5e:2x2", 1), matrix)


def data_loop():
    """A loop that ends when a value is large enough."""

    def function(x):
        return jax.lax.while_loop(lambda x: jnp.max(x) < 3, lambda x: x @ x, x)

    matrix = ((256, 256), jnp.bfloat16, NONE)
    return compiled(function, mesh_of("v5e:2x2", 1), matrix)


def branches():
    """One product or two."""

    def function(take, a):
        return jax.lax.cond(take, lambda a: jnp.tanh(a @ a) @ a, lambda a: a @ a, a)

    matrix = ((256, 256), jnp.bfloat16, NONE)
    return compiled(function, mesh_of("v5e:2x2", 1), ((), jnp.bool_, NONE), matrix)


def products():
    """Products of every kind, each in a scope that names it."""

    def convolve(x, w, stride=1, groups=1):
        return jax.lax.conv_general_dilated(
            x,
            w,
            (stride, stride),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    def function(a, b, heads, image, kernel, grouped, depthwise, wide):
        scores = "bqhd,bkhd->bhqk"
        made = {
            "matrix": lambda: a @ b,
            "batched": lambda: jnp.einsum("bqhd,bqhe->hde", heads, heads),
            "scores": lambda: jnp.einsum(scores, heads, heads),
            "two_axes": lambda: jnp.einsum("bqhd,bqhe->de", heads, heads),
            "convolution": lambda: convolve(image, kernel),
            "strided": lambda: convolve(image, kernel, stride=2),
            "grouped": lambda: convolve(image, grouped, groups=4),
            "depthwise": lambda: convolve(image, depthwise, groups=128),
            "gradient": lambda: jax.vjp(lambda w: convolve(image, w, 2), kernel)[1](
                image[:, ::2, ::2]
            ),
            "exact": lambda: jnp.dot(wide, wide, precision="highest"),
        }
        results = {}
        for name, function in made.items():
            with jax.named_scope(name):
                results[name] = function()
        return results

    shapes = [
        (256, 512), (512, 384), (2, 256, 4, 64), (8, 16, 16, 128),
        (3, 3, 128, 128), (3, 3, 32, 128), (3, 3, 1, 128),
    ]  # fmt: skip
    arguments = [(shape, jnp.bfloat16, NONE) for shape in shapes]
    arguments.append(((256, 256), jnp.float32, NONE))
    return compiled(function, mesh_of("v5e:2x2", 1), *arguments)


def collectives():
    """Every collective of 4096 x 1024 bf16, over four chips."""
    mesh = mesh_of("v5e:2x2")

    def function(whole, part):
        ring = [(i, (i + 1) % 4) for i in range(4)]
        made = (
            jax.lax.psum(whole, "x"),
            jax.lax.psum_scatter(whole[:, :512], "x", tiled=True),
            jax.lax.all_gather(part, "x", tiled=True),
            jax.lax.all_to_all(part[:, :512], "x", 1, 0, tiled=True),
            jax.lax.ppermute(part[:, :256], "x", ring),
        )
        return tuple(jnp.tanh(array) for array in made)

    return compiled(
        jax.shard_map(
            function,
            mesh=mesh,
            in_specs=(NONE, X),
            out_specs=(NONE, X, NONE, PartitionSpec(None, "x"), X),
            check_vma=False,
        ),
        mesh,
        ((4096, 1024), jnp.bfloat16, NONE),
        ((4096, 1024), jnp.bfloat16, X),
    )


def offload():
    """Weights gathered by another core while the matrix units work."""
    mesh = mesh_of("v6e:4x4")
    return compiled(
        lambda x, w: jnp.tanh(x @ x.T) @ w,
        mesh,
        ((16 * 512, 512), jnp.bfloat16, X),
        ((16 * 512, 1024), jnp.bfloat16, X),
        xla_jf_spmd_threshold_for_windowed_einsum_mib="100000",
        xla_tpu_enable_sparse_core_collective_offload_all_gather="true",
        xla_tpu_enable_all_gather_offload_tracing="true",
        xla_tpu_use_tc_device_shape_on_sc="true",
    )


def attention():
    """Splash attention of 2 sequences of 4 heads, with its gradients."""
    mesh = mesh_of("v5e:2x2", 1)
    mask = splash_attention_mask.FullMask((512, 512))
    kernel = splash_attention_kernel.make_splash_mha(
        splash_attention_mask.MultiHeadMask([mask] * 4),
        head_shards=1,
        q_seq_shards=1,
        block_sizes=splash_attention_kernel.BlockSizes.get_default(),
    )

    def function(q, k, v, gradient):
        result, back = jax.vjp(jax.vmap(kernel), q, k, v)
        return result, *back(gradient)

    heads = ((2, 4, 512, 128), jnp.bfloat16, NONE)
    mapped = jax.shard_map(
        function, mesh=mesh, in_specs=NONE, out_specs=NONE, check_vma=False
    )
    return compiled(mapped, mesh, *[heads] * 4)


def kernel():
    """A Pallas kernel with a cost estimate."""
    mesh = mesh_of("v5e:2x2", 1)

    def double(x, result):
        result[...] = 2 * x[...]

    def function(x):
        return pallas.pallas_call(
            double,
            out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype),
            cost_estimate=pallas.CostEstimate(
                flops=10**9, transcendentals=7, bytes_accessed=4096
            ),
            name="double",
        )(x)

    mapped = jax.shard_map(
        function, mesh=mesh, in_specs=NONE, out_specs=NONE, check_vma=False
    )
    return compiled(mapped, mesh, ((256, 256), jnp.float32, NONE))


PROGRAMS = (
    scan, nested, data_loop, branches, products, collectives, offload, attention,
    kernel,
)  # fmt: skip


def shortened(program):
    """The text of a program without what only debuggers and chips read.

    The compiler's own count of operations stands in its second line.
    """
    head, rest = program.as_text().split("\n", 1)
    flops = program.cost_analysis().get("flops", 0)
    rest = rest[re.search(r"^(ENTRY )?%", rest, re.MULTILINE).start() :]
    rest = re.sub(r'"body":"[^"]*"', '"body":""', rest)
    rest = re.sub(r',"float_type_correction_info":.*?(?=\}$)', "", rest, flags=re.M)
    rest = re.sub(r" stack_frame_id=\d+", "", rest)
    return f"{head}\n// cost_analysis: {flops:.0f} FLOPs\n\n{rest}"


if __name__ == "__main__":
    for program in PROGRAMS:
        if not sys.argv[1:] or program.__name__ in sys.argv[1:]:
            text = shortened(program())
            path = FOLDER / f"{program.__name__}.hlo"
            path.write_text(text, encoding="utf-8")
            print(f"{path.name}: {len(text):,} characters")
