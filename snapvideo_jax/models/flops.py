"""Floating-point operations of a network, counted from its shapes.

One multiplication and one addition count as two; only matrix products count. The
count is for one sample and one forward pass; a training step's is in `train_factor`.
"""

from snapvideo_jax.models.fit import FIT


def fit_forward(model: FIT, context_tokens: int) -> dict[str, float]:
    """FLOPs of one forward pass of one video, by part of the network.

    Args:
      model: gives all widths and counts.
      context_tokens: of the text and everything else (`ContextTokens`).
    """
    patches, latents = model.groups * model.patches_per_group, model.latents
    narrow, wide = model.patch_width, model.latent_width
    cross = min(narrow, wide)
    context_cross = min(model.context_width, wide)
    grouped = latents // model.groups

    def attention(queries, query_width, keys, key_width, inner, seen):
        """Projections of both sides and the output, then scores and values."""
        projections = 2 * query_width * queries + 2 * key_width * keys
        return 2 * inner * (projections + 2 * queries * seen)

    def feed_forward(tokens, width):
        return 16 * tokens * width**2

    context = attention(
        latents,
        wide,
        context_tokens,
        model.context_width,
        context_cross,
        context_tokens,
    ) + feed_forward(latents, wide)
    read = attention(
        latents, wide, patches, narrow, cross, model.patches_per_group
    ) + feed_forward(latents, wide)
    per_global = attention(latents, wide, latents, wide, wide, latents)
    per_global += feed_forward(latents, wide)
    write = attention(patches, narrow, latents, wide, cross, grouped)
    pixels = model.patch[0] * model.patch[1] * model.patch[2]
    channels = model.in_channels + model.out_channels
    return {
        "context": model.blocks * context,
        "read": model.blocks * read,
        "global": model.blocks * model.global_layers * per_global,
        "write attention": model.blocks * write,
        "write feed-forward": model.blocks * feed_forward(patches, narrow),
        "patches and pixels": 2 * patches * narrow * pixels * channels,
        "self-conditioning": feed_forward(latents, wide),
    }


def train_factor(self_conditioning: float) -> float:
    """Forward passes that a training step is worth.

    One forward, a backward that costs two, and the self-conditioning pass of the
    share of samples that have one; recomputation does not count.
    """
    return 3 + self_conditioning
