"""FLOPs of an experiment: of a forward pass, and of training on a sample."""

from snapvideo_jax.models.flops import train_factor


def flops_forward(experiment) -> float:
    """FLOPs of one forward pass of one sample."""
    text = experiment.text
    return sum(experiment.model.forward_flops(text.tokens, text.width).values())


def flops_per_sample(experiment) -> float:
    """Model FLOPs of training on one sample; recomputation does not count."""
    share = experiment.training.self_conditioned_share
    return flops_forward(experiment) * train_factor(share)
