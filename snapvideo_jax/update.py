"""What a gradient does to a state, and what is done where it would do harm.

Everything is decided on the devices, from numbers that the step computes anyway, so a
loop that trains never waits to learn whether a step was a good one.
"""

import jax
import jax.numpy as jnp
import optax

from snapvideo_jax.optim import Optimizer

GOOD, NON_FINITE, SPIKE = range(3)
"""What a step can be found to be."""


def updated(state, loss: jax.Array, grads, optimizer: Optimizer):
    """The state after a step, and what the step was found to be.

    Where a bad step is skipped, parameters, moments and average are bit by bit what
    they were; the step is counted, so that data and learning rate go on. Power-function
    averages take the parameters in once more: their profile is one over steps, and at
    this one the parameters stood still.

    Args:
      state: a `step.TrainState`.
      loss, grads: of the batch.
    """
    norm = optax.tree.norm(grads)
    verdict, median = judge(loss, norm, state.norms, optimizer.spike_factor)
    updates, opt_state = optimizer.transform().update(
        grads, state.opt_state, state.params
    )
    params = optax.apply_updates(state.params, updates)
    decay = optimizer.ema_decay(state.step + 1)
    ema = jax.tree.map(
        lambda old, new: decay * old + (1 - decay) * new, state.ema, params
    )
    if optimizer.on_bad_step == "skip":
        is_bad = verdict != GOOD
        params = _hold_back(is_bad, state.params, params)
        ema = _hold_back(is_bad, state.ema, ema)
        *held, _ = _hold_back(is_bad, state.opt_state, opt_state)
        opt_state = (*held, opt_state[-1])  # The last is the schedule's, which goes on.
    after = state.replace(
        step=state.step + 1,
        params=params,
        opt_state=opt_state,
        ema=ema,
        powers=optimizer.with_powers(state.powers, params, state.step + 1),
        norms=remember(state.norms, norm, state.step),
    )
    return after, {"grad_norm": norm, "median_norm": median, "verdict": verdict}


def judge(loss: jax.Array, norm: jax.Array, norms: jax.Array, spike_factor: float):
    """What a step is found to be, and the median its gradient is measured against.

    Args:
      loss, norm: of the step: its loss, and the norm of its gradient.
      norms: of the steps before it; zeros where there was none.
      spike_factor: multiple of the median that makes a spike; 0 finds none.

    Returns:
      One of GOOD, NON_FINITE and SPIKE, and the median; 0 while ``norms`` has zeros,
      and no step is a spike then.
    """
    median = jnp.where((norms > 0).all(), jnp.median(norms), 0.0)
    limit = spike_factor * median
    spikes = (limit > 0) & (norm > limit)
    finite = jnp.isfinite(loss) & jnp.isfinite(norm)
    return jnp.where(finite, jnp.where(spikes, SPIKE, GOOD), NON_FINITE), median


def remember(norms: jax.Array, norm: jax.Array, step: jax.Array) -> jax.Array:
    """The norms of the last steps with that of ``step``, from 0, in its oldest's place.

    Spikes enter, so that a lasting rise is a spike only until it is the median; what is
    not finite does not.
    """
    oldest = jnp.arange(len(norms)) == step % len(norms)
    return jnp.where(oldest & jnp.isfinite(norm), norm, norms)


def _hold_back(is_bad: jax.Array, before, after):
    """``after``; ``before``, bit by bit, where a step is bad."""
    return jax.tree.map(lambda old, new: jnp.where(is_bad, old, new), before, after)
