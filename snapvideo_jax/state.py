"""The state of a run: what it holds, its initialisation and its update."""

import functools
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from snapvideo_jax.optim import Optimizer
from snapvideo_jax.types import Batch, context_of

Params = Any
GOOD, NON_FINITE, SPIKE = range(3)
"""Verdicts on a step."""


@flax.struct.dataclass
class TrainState:
    """The whole state of a run; the position in the data follows from the step.

    Leaves are arrays, or their shapes or shardings.

    Attributes:
      step: number of updates, including skipped ones.
      ema: exponential moving average of the parameters.
      powers: power-function averages, one for each of ``optimizer.ema_widths``.
      norms: gradient norms of the last ``optimizer.spike_window`` steps.
    """

    step: Any
    params: Params
    opt_state: Any
    ema: Params
    powers: Any = ()
    norms: Any = ()


def init_state(model, optimizer: Optimizer, batch: Batch, key: Array) -> TrainState:
    """A fresh state, its parameters boxed with their logical axes."""
    context = context_of(batch, jnp.zeros(batch["sample"].shape, bool))
    first = jax.tree.map(lambda leaf: leaf[:1], context)
    clip = jnp.zeros((1, model.frames, model.height, model.width, model.out_channels))
    if model.is_upsampler:
        first = first.replace(low_resolution=clip, low_resolution_noise=jnp.zeros(1))
    params = model.init(key, clip, jnp.zeros(1), first, model.no_latents(1))["params"]
    plain = nn.unbox(params)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=_boxed_like(params, optimizer.transform().init(plain)),
        ema=jax.tree.map(jnp.copy, params),
        powers=tuple(jax.tree.map(jnp.copy, params) for _ in optimizer.ema_widths),
        norms=jnp.zeros(optimizer.spike_window),
    )


def _boxed_like(params, opt_state):
    """The optimizer's state, each array boxed with the axes of its parameter."""
    boxes = jax.tree_util.tree_leaves_with_path(params, is_leaf=_is_box)
    names = {jax.tree_util.keystr(path): box.names for path, box in boxes}

    def box(path, leaf):
        for start in range(len(path)):
            found = names.get(jax.tree_util.keystr(path[start:]))
            if found is not None:
                return nn.LogicallyPartitioned(leaf, found)
        return leaf

    return jax.tree_util.tree_map_with_path(box, opt_state)


def _is_box(leaf) -> bool:
    return isinstance(leaf, nn.LogicallyPartitioned)


def abstract_state(experiment):
    """Shapes of an experiment's state, its parameters boxed with their logical axes."""
    return jax.eval_shape(functools.partial(fresh_state, experiment))


def fresh_state(experiment):
    """The initial state of an experiment, boxed likewise; to be jitted."""
    tokens, width = experiment.text.tokens, experiment.text.width
    batch = {
        "text": jnp.zeros((1, tokens, width)),
        "text_mask": jnp.ones((1, tokens), bool),
        "frame_interval": jnp.zeros(1),
        "resolution": jnp.ones((1, 2)),
        "sample": jnp.zeros(1, jnp.uint32),
    }
    key = jax.random.fold_in(jax.random.key(experiment.seed), 0)
    return init_state(experiment.model, experiment.optimizer, batch, key)


def updated(state, loss: jax.Array, grads, optimizer: Optimizer):
    """The state after a step, and metrics: gradient norm, running median, verdict.

    Where a bad step is skipped, parameters, moments and EMA are bit-equal to those
    before; the step is counted, so that data and learning rate advance. Power-function
    averages add the unchanged parameters once more, since their profile is over steps.

    Args:
      state: a `TrainState`.
      loss, grads: of the batch.
      optimizer: its settings.
    """
    norm = optax.tree.norm(grads)
    verdict, median = verdict_on(loss, norm, state.norms, optimizer.spike_factor)
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
        params = _unless(is_bad, state.params, params)
        ema = _unless(is_bad, state.ema, ema)
        *moments, _ = _unless(is_bad, state.opt_state, opt_state)
        opt_state = (*moments, opt_state[-1])  # The schedule, last, advances.
    after = state.replace(
        step=state.step + 1,
        params=params,
        opt_state=opt_state,
        ema=ema,
        powers=optimizer.with_powers(state.powers, params, state.step + 1),
        norms=with_norm(state.norms, norm, state.step),
    )
    return after, {"grad_norm": norm, "median_norm": median, "verdict": verdict}


def verdict_on(loss: jax.Array, norm: jax.Array, norms: jax.Array, spike_factor: float):
    """Whether a step is good, and the median gradient norm of the steps before it.

    Args:
      loss, norm: loss and gradient norm of the step.
      norms: gradient norms of the steps before it; zeros where there were none.
      spike_factor: multiple of the median above which a norm is a spike; 0 for none.

    Returns:
      One of GOOD, NON_FINITE and SPIKE; and the median, 0 while ``norms`` has zeros,
      when no step is a spike.
    """
    median = jnp.where((norms > 0).all(), jnp.median(norms), 0.0)
    limit = spike_factor * median
    spikes = (limit > 0) & (norm > limit)
    finite = jnp.isfinite(loss) & jnp.isfinite(norm)
    return jnp.where(finite, jnp.where(spikes, SPIKE, GOOD), NON_FINITE), median


def with_norm(norms: jax.Array, norm: jax.Array, step: jax.Array) -> jax.Array:
    """The norms of the last steps, the oldest replaced by that of ``step`` (from 0).

    Spikes are included, so that a lasting rise becomes the median; norms that are not
    finite are ignored.
    """
    oldest = jnp.arange(len(norms)) == step % len(norms)
    return jnp.where(oldest & jnp.isfinite(norm), norm, norms)


def _unless(is_bad: jax.Array, before, after):
    """``after``, or ``before`` where a step is bad."""
    return jax.tree.map(lambda old, new: jnp.where(is_bad, old, new), before, after)
