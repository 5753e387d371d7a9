"""FLOPs of an experiment: of a forward pass, and of training on a sample."""

import numpy as np

from snapvideo_jax.models.flops import train_factor


def flops_forward(experiment) -> float:
    """FLOPs of one forward pass of one sample; the mean over the sizes of batches."""
    model, data, text = experiment.model, experiment.data, experiment.text
    models = [model.at(*size) for size in data.sizes] if data.buckets else [model]
    each = [sum(m.forward_flops(text.tokens, text.width).values()) for m in models]
    return float(np.average(each, weights=data.size_weights))


def flops_per_sample(experiment) -> float:
    """Model FLOPs of training on one sample; recomputation does not count."""
    share = experiment.training.self_conditioned_share
    return flops_forward(experiment) * train_factor(share)
