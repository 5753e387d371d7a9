"""The one train step, and the denoiser for sampling: where models meet diffusion.

All randomness of a sample derives from the run's seed and the sample's position in
the global sequence, never from the device or the place in a batch, so a step gives
the same loss on any mesh.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from einops import rearrange
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array

from snapvideo_jax.diffusion import EDM, Denoise
from snapvideo_jax.diffusion.edm import broadcast
from snapvideo_jax.diffusion.low_resolution import corrupted, shrink
from snapvideo_jax.diffusion.noise import fold_in, normal, sample_keys
from snapvideo_jax.optim import Optimizer
from snapvideo_jax.parallel.sharding import (
    batch_sharding,
    constrain,
    devices_along,
    with_layout,
)
from snapvideo_jax.state import Params, TrainState, updated
from snapvideo_jax.types import CLIP_AXES, Batch, Context, context_of, pixels

NOISE, SIGMA, LABEL, LOW_NOISE, LOW_LEVEL = range(5)
"""Purposes a sample's key is split for."""
BIN_EDGES = (0.02, 0.1, 0.5, 2.0)
"""Noise levels that separate the bins the loss is reported in."""
METRICS = ("loss", "grad_norm", "median_norm", "verdict", "loss_sum", "loss_count")
"""Metrics of a step that are of the whole batch."""


@dataclasses.dataclass(frozen=True)
class Training:
    """What the loss is made of.

    Attributes:
      self_conditioning: share of samples that see the latents of a first pass. [P] 0.9.
      self_conditioning_period: the share is kept exactly within every so many
        consecutive samples, so that the first pass runs on those samples only [C].
      label_dropout: share of samples that lose their caption. [P] 0.1.
      low_resolution: height and width of the clip that an upsampler enlarges, made
        from the one it is to give; (0, 0) for a first stage. [P] 36 and 64.
      low_resolution_noise: most noise that is added to it [C]; a sample's is drawn
        evenly from 0 to this.
      videos, images: samples of either kind in a unit of the batch, as the pipeline
        interleaves them.
      microbatches: parts the batch is cut into, their gradients averaged.
    """

    videos: int = 1
    images: int = 1
    self_conditioning: float = 0.9
    self_conditioning_period: int = 32
    label_dropout: float = 0.1
    low_resolution: tuple[int, int] = (0, 0)
    low_resolution_noise: float = 0.5
    microbatches: int = 1

    def __post_init__(self):
        for name in ("self_conditioning", "label_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(
                    f"training.{name}={getattr(self, name)} is not a share; use 0 to 1."
                )
        for name in ("self_conditioning_period", "microbatches"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"training.{name}={getattr(self, name)} is too small; use at "
                    f"least 1."
                )

    @property
    def self_conditioned(self) -> int:
        """Samples of every period that are."""
        return round(self.self_conditioning * self.self_conditioning_period)

    @property
    def self_conditioned_share(self) -> float:
        """The share that a period of whole samples comes to."""
        return self.self_conditioned / self.self_conditioning_period


def train_step(
    state: TrainState,
    batch: Batch,
    key: Array,
    *,
    model,
    edm: EDM,
    optimizer: Optimizer,
    training: Training,
) -> tuple[TrainState, dict[str, Array]]:
    """One update. Pure: equal arguments give equal results on any mesh.

    Args:
      state: parameters, optimizer and EMA after ``state.step`` steps.
      batch: the global batch.
      key: of the run; everything random is derived from it.
      model: any network with the call of `snapvideo_jax.models`.

    Returns:
      The next state, and metrics: loss, gradient norm and its running median, what the
      step was found to be (`update.GOOD` and others), per kind and noise bin the sum of
      losses and the number of samples, and of each sample its number and its loss.
    """

    def loss_fn(params, part, key):
        losses, sigma, is_image = sample_losses(
            params, part, key, model=model, edm=edm, training=training
        )
        kinds = _kinds(edm, part, training)
        numbers = jnp.concatenate([batch["sample"] for _, batch in kinds])
        samples = {"number": numbers, "loss": losses}
        return losses.mean(), (_binned(losses, sigma, is_image), samples)

    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
    step_key = jax.random.fold_in(key, state.step)
    if training.microbatches == 1:
        (loss, (bins, samples)), grads = grad_fn(
            state.params, batch, key=(key, step_key)
        )
        samples = jax.tree.map(lambda leaf: leaf[None], samples)
    else:
        loss, bins, samples, grads = _accumulated(
            grad_fn,
            state.params,
            batch,
            (key, step_key),
            training.microbatches,
            training.self_conditioning_period,
        )
    with jax.named_scope("optimizer"):  # so that profiles tell it apart
        after, found = updated(state, loss, grads, optimizer)
    return after, {"loss": loss, **found, **bins, "samples": samples}


def train_step_of(experiment):
    """`train_step` of a `config.Experiment`, which gives all that a step is made of."""
    return functools.partial(
        train_step,
        model=experiment.model,
        edm=experiment.diffusion,
        optimizer=experiment.optimizer,
        training=experiment.training,
    )


def jit_train_step(experiment, mesh, places: TrainState):
    """`train_step` of an experiment on a mesh, jitted; it takes over the state given.

    Args:
      experiment: a `config.Experiment`.
      mesh: whose devices it runs on.
      places: shardings of the state, before and after the step.
    """
    whole, over_batch = NamedSharding(mesh, PartitionSpec()), batch_sharding(mesh)
    metrics = dict.fromkeys(METRICS, whole) | {"samples": None}  # stay where they are
    return jax.jit(
        with_layout(train_step_of(experiment), mesh),
        in_shardings=(places, over_batch, whole),
        out_shardings=(places, metrics),
        donate_argnums=0,
    )


def sample_losses(params, batch, key, *, model, edm, training):
    """Loss, noise level and kind of every sample of a batch.

    Args:
      key: ``(run key, step key)``; the second is for dropout, the only randomness
        that is drawn for a batch and not for a sample.
    """
    run_key, step_key = key
    results = [
        _losses(params, part, run_key, step_key, model, kind, training)
        for kind, part in _kinds(edm, batch, training)
    ]
    return tuple(jnp.concatenate(column) for column in zip(*results, strict=True))


def _losses(params, batch, run_key, step_key, model, edm, training):
    clip, eps, sigma, output = outputs(
        params, batch, (run_key, step_key), model=model, edm=edm, training=training
    )
    losses = edm.loss(output, clip, eps, sigma)
    return losses, sigma, batch["frame_interval"] == 0


def outputs(params, batch, key, *, model, edm, training):
    """Clips in -1..1 of one framework, their noise, its level, and the output ``F``.

    Args:
      key: as for `sample_losses`.
    """
    run_key, step_key = key
    clip = constrain(pixels(batch["video"]), *CLIP_AXES)
    keys = sample_keys(run_key, batch["sample"])
    sigma = edm.training_sigma(fold_in(keys, SIGMA))
    eps = constrain(normal(fold_in(keys, NOISE), clip.shape[1:]), *CLIP_AXES)
    level = broadcast(sigma, clip)
    noisy = edm.c_in(level) * edm.corrupt(clip, eps, level)
    drop = jax.vmap(jax.random.uniform)(fold_in(keys, LABEL)) < training.label_dropout
    context = context_of(batch, drop)
    if any(training.low_resolution):
        context = with_low_resolution(context, clip, keys, training)
    c_noise = edm.c_noise(sigma)

    previous = first_pass(params, noisy, c_noise, context, model, training)
    output, _ = model.apply(
        {"params": params},
        noisy,
        c_noise,
        context,
        previous,
        train=True,
        rngs={"dropout": step_key},
    )
    return clip, eps, sigma, output


def with_low_resolution(context, clip, keys, training) -> Context:
    """The context with the clip itself: shrunk, corrupted, and enlarged again."""
    low = shrink(clip, training.low_resolution)
    uniform = jax.vmap(jax.random.uniform)(fold_in(keys, LOW_LEVEL))
    level = training.low_resolution_noise * uniform
    eps = normal(fold_in(keys, LOW_NOISE), low.shape[1:])
    enlarged = corrupted(low, eps, level, clip.shape[2:4])
    return context.replace(
        low_resolution=constrain(enlarged, *CLIP_AXES), low_resolution_noise=level
    )


@jax.named_scope("first_pass")
def first_pass(params, noisy, c_noise, context, model, training):
    """Latents for self-conditioning, from a pass without gradient or dropout.

    Only the first ``self_conditioned`` of every ``self_conditioning_period`` samples
    need it; samples are shuffled, so which ones they are is chance. The others run it
    too, for nothing, where the devices could not share the chosen ones evenly.
    """
    batch, period = noisy.shape[0], training.self_conditioning_period
    nothing = model.no_latents(batch)
    chosen = training.self_conditioned
    if not chosen:
        return nothing

    def choose(leaf):
        return rearrange(
            rearrange(leaf, "(s k) ... -> s k ...", k=period)[:, :chosen],
            "s k ... -> (s k) ...",
        )

    def spread(leaf):
        leaf = rearrange(leaf, "(s k) ... -> s k ...", k=chosen)
        rest = [(0, 0), (0, period - chosen)] + [(0, 0)] * (leaf.ndim - 2)
        return rearrange(jnp.pad(leaf, rest), "s k ... -> (s k) ...")

    inputs = (noisy, c_noise, context, nothing)
    few = batch // period * chosen
    even = few % devices_along("batch", batch) == 0
    if even:
        inputs = jax.tree.map(choose, inputs)
    _, latents = model.apply({"params": jax.lax.stop_gradient(params)}, *inputs)
    if even:
        latents = jax.tree.map(spread, latents)
    else:
        latents = latents.replace(known=jnp.arange(batch) % period < chosen)
    return jax.lax.stop_gradient(latents)


def make_denoise(model, params: Params, edm: EDM, context: Context) -> Denoise:
    """``D(x, sigma, carry)`` of a network under ``context``, for the samplers."""

    def denoise(x, sigma, carry):
        level = broadcast(sigma, x)
        output, carry = model.apply(
            {"params": params}, edm.c_in(level) * x, edm.c_noise(sigma), context, carry
        )
        return edm.denoised(x, output, sigma), carry

    return denoise


def _kinds(edm, batch, training):
    """The batch, or videos, and images cut to one frame, each with its framework.

    [P] Tab. 3, iv.
    """
    if edm.images_as_videos:
        return [(edm, batch)]
    unit = training.videos + training.images

    def take(start, stop):
        return jax.tree.map(
            lambda leaf: rearrange(
                rearrange(leaf, "(s k) ... -> s k ...", k=unit)[:, start:stop],
                "s k ... -> (s k) ...",
            ),
            batch,
        )

    parts = []
    if training.videos:
        parts.append((edm, take(0, training.videos)))
    if training.images:
        images = take(training.videos, unit)
        parts.append((edm.for_images(), images | {"video": images["video"][:, :1]}))
    return parts


def _binned(losses, sigma, is_image):
    """Sums of losses and counts, by kind (video, image) and noise bin."""
    bins = jnp.searchsorted(jnp.array(BIN_EDGES), sigma)
    index = bins + (len(BIN_EDGES) + 1) * is_image
    where = jax.nn.one_hot(index, 2 * (len(BIN_EDGES) + 1))
    shape = (2, len(BIN_EDGES) + 1)
    return {
        "loss_sum": jnp.einsum("b,bj->j", losses, where).reshape(shape),
        "loss_count": where.sum(0).reshape(shape),
    }


def _accumulated(grad_fn, params, batch, key, microbatches, unit):
    """Loss, bins, samples and gradients of all parts of the batch, averaged.

    A part takes every k-th run of ``unit`` samples, so it has the batch's mixture and
    stays on the devices that hold it.
    """
    run_key, step_key = key
    parts = jax.tree.map(
        lambda leaf: rearrange(
            leaf, "(s k u) ... -> k (s u) ...", k=microbatches, u=unit
        ),
        batch,
    )

    def body(total, inputs):
        index, part = inputs
        part_key = (run_key, jax.random.fold_in(step_key, index))
        (loss, (bins, samples)), grads = grad_fn(params, part, key=part_key)
        return jax.tree.map(jnp.add, total, (loss, bins, grads)), samples

    first = jax.tree.map(lambda leaf: leaf[0], parts)
    shapes = jax.eval_shape(lambda: grad_fn(params, first, key=key))
    (loss, (bins, _)), grads = jax.tree.map(
        lambda s: jnp.zeros(s.shape, s.dtype), shapes
    )
    (loss, bins, grads), samples = jax.lax.scan(
        body, (loss, bins, grads), (jnp.arange(microbatches), parts)
    )
    mean = lambda leaf: leaf / microbatches  # noqa: E731
    return mean(loss), bins, samples, jax.tree.map(mean, grads)
