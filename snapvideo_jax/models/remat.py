"""Rematerialization policies of all networks, by name."""

import flax.linen as nn
import jax

from snapvideo_jax.models.attention import ATTENTION

DTYPES = ("float32", "bfloat16")
"""Types that a network can compute in."""
PRODUCT = "product"
"""checkpoint_name of outputs of products with kernels, and of convolutions."""

_DOTS = jax.checkpoint_policies.save_from_both_policies(
    jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    jax.checkpoint_policies.save_only_these_names(ATTENTION, PRODUCT),
)
REMAT = {
    "none": None,
    "block": None,
    "layer": jax.checkpoint_policies.save_only_these_names(ATTENTION),
    "latent_dots": _DOTS,
    "dots": _DOTS,
    "offload": jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=["block_input"],
        offload_src="device",
        offload_dst="pinned_host",
    ),
}
"""What the forward pass saves for the backward pass, by name of the policy:

    none         everything
    block        the input of each block
    offload      the same, in the memory of the host
    layer        the input of each pair of attention and feed-forward, and the
                 output of its attention
    dots         the same, and all products with weights
    latent_dots  the same, and products with weights of latents only: where patches
                 are many, their products are recomputed faster than written and read

Everything else is recomputed. For a network without latents, "latent_dots" equals
"dots". The U-Net has no "offload"; its blocks and its layers are its residual and
attention blocks."""


def check_known(model, remats: tuple[str, ...] = tuple(REMAT)) -> None:
    """Raises ValueError where a network's ``dtype`` or ``remat`` is unknown.

    Args:
      model: the network.
      remats: policies that it supports.
    """
    for name, known in (("dtype", DTYPES), ("remat", remats)):
        if getattr(model, name) not in known:
            raise ValueError(
                f"model.{name}={getattr(model, name)!r} is unknown; use one of {known}."
            )


def scanned(block: type[nn.Module], model, inputs: int):
    """``block``, scanned over ``model.blocks`` sets of parameters.

    Args:
      block: maps a state and ``inputs`` further inputs, the last of which is ``train``,
        to a state and None.
      model: gives ``blocks``, ``unroll`` and ``remat``, whose policies "block" and
        "offload" apply to whole blocks.
      inputs: number of inputs that all blocks share.
    """
    if model.remat in ("block", "offload"):
        policy, train = REMAT[model.remat], inputs + 1
        block = nn.remat(
            block, prevent_cse=False, static_argnums=(train,), policy=policy
        )
    return nn.scan(
        block,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=(nn.broadcast,) * inputs,
        length=model.blocks,
        unroll=model.unroll,
        metadata_params={nn.PARTITION_NAME: "blocks"},
    )
