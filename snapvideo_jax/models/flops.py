"""Floating-point operations of a network, counted from its shapes.

One multiplication and one addition count as two; only matrix products count. The
count is for one sample and one forward pass; a training step's is in `train_factor`.
"""

import math
from collections import Counter

import numpy as np


def fit_forward(model, context_tokens: int) -> dict[str, float]:
    """FLOPs of one forward pass of one video, by part of the network.

    Args:
      model: a `FIT`, which gives all widths and counts.
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


def unet_forward(model, text_tokens: int, text_width: int) -> dict[str, float]:
    """FLOPs of one forward pass of one video, by part of the network.

    Args:
      model: a `UNet`.
      text_tokens, text_width: of the text before it is projected.
    """
    found: Counter[str] = Counter()
    frames, embedding = model.frames, model.embedding_width
    for step in model.steps():
        rows, columns = model.size(step.level)
        width, positions = step.width, rows * columns
        pixels = frames * positions
        convolved = 9 * (step.width_in + width) * width
        if step.width_in != width:
            convolved += step.width_in * width
        kind = "resampling blocks" if step.resample else "residual blocks"
        found[kind] += 2 * pixels * convolved
        found["scales and shifts"] += 2 * embedding * 2 * width
        if not step.attends:
            continue
        for over, seen in (("spatial", positions), ("temporal", frames)):
            found[f"{over} projections"] += 2 * pixels * 4 * width**2
            found[f"{over} attention"] += 4 * pixels * seen * width
            found["text keys and values"] += (
                4 * text_tokens * model.context_width * width
            )
            found["attention to text"] += 4 * pixels * text_tokens * width
    rows, columns = model.size(0)
    ends = model.in_channels + model.out_channels
    found["stem and head"] = 18 * frames * rows * columns * model.channels * ends
    found["text projection"] = 2 * text_tokens * text_width * model.context_width
    found["numbers"] = _numbers(model.channels, embedding)
    return dict(found)


def dit_forward(model, text_tokens: int, text_width: int) -> dict[str, float]:
    """FLOPs of one forward pass of one video, by part of the network.

    Args:
      model: a `DiT`.
      text_tokens, text_width: of the text before it is projected.
    """
    patches, width, text = model.patches, model.patch_width, model.context_width
    blocks = model.blocks
    pixels = math.prod(model.patch) * (model.in_channels + model.out_channels)
    return {
        "self-attention projections": blocks * 8 * patches * width**2,
        "self-attention": blocks * 4 * patches**2 * width,
        "cross-attention": blocks
        * 4
        * width
        * (patches * width + text_tokens * text + patches * text_tokens),
        "feed-forward": blocks * 16 * patches * width**2,
        "scales, shifts and gates": (blocks * 6 + 2) * 2 * width**2,
        "patches and pixels": 2 * patches * width * pixels,
        "text projection": 2 * text_tokens * text_width * text,
        "numbers": _numbers(model.number_width, width),
    }


def _numbers(base: int, width: int) -> int:
    """FLOPs of `context.NumbersVector`: three numbers or pairs of them."""
    return 3 * 2 * (base * width + width**2)


def train_factor(self_conditioning: float) -> float:
    """Cost of a training step in forward passes.

    One forward pass, two for the backward pass, and the first pass of self-conditioned
    samples, whose share is given; recomputation does not count.
    """
    return 3 + self_conditioning


def flops_forward(experiment) -> float:
    """FLOPs of one forward pass of one sample, averaged over the sizes of batches."""
    model, data, text = experiment.model, experiment.data, experiment.text
    models = [model.at(*size) for size in data.sizes] if data.buckets else [model]
    each = [sum(m.forward_flops(text.tokens, text.width).values()) for m in models]
    return float(np.average(each, weights=data.size_weights))


def flops_per_sample(experiment) -> float:
    """FLOPs of training on one sample; recomputation does not count."""
    share = experiment.training.self_conditioned_share
    return flops_forward(experiment) * train_factor(share)
