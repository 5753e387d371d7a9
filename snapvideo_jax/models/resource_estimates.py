"""Rough estimates of the resources that networks need, from their shapes.

They order the candidates that `planning.search` compiles; exact numbers come from
compiled programs.
"""

from snapvideo_jax.models.network import ResourceEstimate


def fit(model) -> ResourceEstimate:
    """Resources of a `FIT`."""
    narrow = model.groups * model.patches_per_group * model.patch_width
    wide = model.latents * model.latent_width
    layers, size = model.global_layers, _bytes(model)
    inputs = (2 + layers) * wide + narrow
    # Queries, keys, values, the outputs of attention, and both feed-forward layers.
    of_latents, of_patches = (9 * layers + 14) * wide, 9 * narrow
    products = of_latents + of_patches
    saved = {
        "none": 2 * (inputs + products),
        "dots": inputs + products,
        "latent_dots": inputs + of_latents,
        "layer": 2 * inputs,  # and outputs of attention, of the same size
        "block": wide + narrow,
        "offload": 0,
    }[model.remat]
    # As compiled, FIT 3.9B uses 0.4 GB a sample in addition to what it saves.
    in_use = 80 * max(wide, narrow)
    if model.remat in ("block", "offload"):
        in_use += 2 * (inputs + products)
    return ResourceEstimate(
        activations=size * (model.blocks * saved + in_use),
        exchanged=model.blocks * (layers + 3) * 2 * wide,
        narrowest=min(model.patch_width, model.latent_width),
        parts=model.latents,
    )


def dit(model) -> ResourceEstimate:
    """Resources of a `DiT`."""
    tokens = model.patches * model.patch_width
    size = _bytes(model)
    # Inputs of three layers; their queries, keys, values, outputs and hidden units.
    inputs, products = 3 * tokens, 14 * tokens
    saved = {
        "none": 2 * (inputs + products),
        "dots": inputs + products,
        "latent_dots": inputs + products,
        "layer": inputs + 2 * tokens,
        "block": tokens,
        "offload": 0,
    }[model.remat]
    in_use = 80 * tokens
    if model.remat in ("block", "offload"):
        in_use += 2 * (inputs + products)
    return ResourceEstimate(
        activations=size * (model.blocks * saved + in_use),
        exchanged=3 * model.blocks * tokens,
        narrowest=model.patch_width,
        parts=model.patches,
    )


def unet(model) -> ResourceEstimate:
    """Resources of a `UNet`, whose norms and activations are partly float32."""
    size = _bytes(model)
    inputs = products = largest = attended = 0
    for step in model.steps():
        rows, columns = model.size(step.level)
        positions = model.frames * rows * columns
        joined, made = positions * step.width_in, positions * step.width
        largest = max(largest, joined)
        inputs += joined + 2 * made * step.attends
        products += 2 * made + 8 * made * step.attends
        attended += 4 * made * step.attends
    saved = {
        "none": 4 * (inputs + products),
        "dots": inputs + products,
        "layer": inputs + attended / 2,
        "block": inputs,
    }[model.remat]
    return ResourceEstimate(
        activations=size * (saved + 16 * largest),
        exchanged=attended,
        narrowest=model.channels,
        parts=1,
    )


def _bytes(model) -> int:
    return 2 if model.dtype == "bfloat16" else 4
