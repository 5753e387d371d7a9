"""What a backward pass keeps and what it computes again, by name, for all networks."""

import jax

from snapvideo_jax.models.attention import ATTENTION

DTYPES = ("float32", "bfloat16")
"""What a network may be computed in."""
PRODUCT = "product"
"""Name of what a product with a kernel gives, or a convolution."""

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
"""What the backward pass keeps, by name, with its policy: everything ("none"), what
enters each block ("block", or on the host: "offload"), what enters each pair of
attention and feed-forward and what its attention gave ("layer"), or that and all
products with weights ("dots"), or only those of latents ("latent_dots": where patches
are many, to make their products again is faster than to write and read them). A
network without latents has no "latent_dots", and the U-Net, whose residual and
attention blocks are its blocks and its layers, no "offload"."""


def check_known(model, remats: tuple[str, ...] = tuple(REMAT)) -> None:
    """Refuses a type or a policy that a network does not have.

    Raises:
      ValueError: names the field and what there is.
    """
    for name, known in (("dtype", DTYPES), ("remat", remats)):
        if getattr(model, name) not in known:
            raise ValueError(
                f"model.{name}={getattr(model, name)!r} is unknown; use one of {known}."
            )
