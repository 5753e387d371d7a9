"""Flags of XLA under which programs for the CPU compile in a third of the time.

They change how a program is compiled, not what it computes, but for rounding: a product
and a sum may be fused in one program and not in another. Tests that compare two
programs bit by bit, or after many steps, compile with `FUSED`. A jaxlib that no longer
knows a flag ends the process with "Unknown flag in XLA_FLAGS": remove it then.
"""

FAST_COMPILE = " ".join(
    [
        "--xla_backend_optimization_level=0",
        "--xla_cpu_use_fusion_emitters=false",  # MLIR for each fusion takes longest
        "--xla_cpu_parallel_codegen_split_count=1",
    ]
)

FUSED = {"xla_cpu_use_fusion_emitters": True}
"""Compiler options of `jax.jit` that fuse as programs outside of the tests do."""


def devices(count):
    """The flag that divides the CPU into ``count`` devices."""
    return f"--xla_force_host_platform_device_count={count}"
