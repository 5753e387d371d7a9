"""The one train step, and the denoiser for sampling: where models meet diffusion.

The loss of a batch takes three calls: `forward_process` adds noise, `predict` runs the
network on it, and `EDM.loss` compares the output with its target. All randomness of a
sample derives from the run's seed and the sample's position in the global sequence,
never from the device or the row of a batch, so a step gives the same loss on any mesh.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, UInt

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
from snapvideo_jax.types import CLIP_AXES, Batch, Context, Keys, context_of, pixels

NOISE, SIGMA, LABEL, LOW_NOISE, LOW_LEVEL = range(5)
"""fold_in tags of a sample's key: noise, noise level, label dropout, and noise and
noise level of the low-resolution conditioning."""
BIN_EDGES = (0.02, 0.1, 0.5, 2.0)
"""Noise levels that separate the bins in which the loss is reported."""
METRICS = ("loss", "grad_norm", "median_norm", "verdict", "loss_sum", "loss_count")
"""Metrics of a whole batch, replicated on all devices."""


@dataclasses.dataclass(frozen=True)
class Training:
    """Settings of the loss.

    Attributes:
      self_conditioning: share of samples that see the latents of a first pass. [P] 0.9.
      self_conditioning_period: of every so many consecutive samples exactly this share
        is self-conditioned, so that the first pass runs on those samples only [C].
      label_dropout: share of samples whose caption is dropped. [P] 0.1.
      low_resolution: height and width of the clip that an upsampler enlarges, which is
        its target shrunk; (0, 0) for a first stage. [P] 36 and 64.
      low_resolution_noise: largest standard deviation of the noise added to it [C]; a
        sample's is uniform between 0 and this.
      videos, images: samples of either kind in a unit of the batch, as the pipeline
        interleaves them.
      microbatches: parts of the batch whose gradients are computed one after another
        and averaged.
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
        """Self-conditioned samples of every period."""
        return round(self.self_conditioning * self.self_conditioning_period)

    @property
    def self_conditioned_share(self) -> float:
        """The share of self-conditioned samples, in whole samples of a period."""
        return self.self_conditioned / self.self_conditioning_period


class StepKeys(NamedTuple):
    """PRNG keys of a step.

    run: of the run. Everything random about a sample derives from this key and the
        sample's number.
    step: ``run`` folded with the step (and the microbatch), for the network's dropout,
        the only randomness drawn for a batch and not for a sample.
    """

    run: Array
    step: Array


class Diffused(NamedTuple):
    """Samples after the forward process: inputs of the network and of the loss.

    clip: the clips in -1..1.
    eps: standard normal noise.
    sigma: noise level of each sample.
    noisy: ``c_in x_sigma``, which the network reads.
    context: what the network is conditioned on, in addition to ``sigma``.
    """

    clip: Float[Array, "b t h w c"]
    eps: Float[Array, "b t h w c"]
    sigma: Float[Array, "b"]
    noisy: Float[Array, "b t h w c"]
    context: Context


class SampleLosses(NamedTuple):
    """Losses of the samples of a batch.

    loss: of each sample, averaged over its pixels.
    sigma: its noise level.
    is_image: whether it is an image.
    number: its position in the global sequence. Samples are in the order of the batch,
        except where images are not videos: there images come after videos.
    """

    loss: Float[Array, "b"]
    sigma: Float[Array, "b"]
    is_image: Bool[Array, "b"]
    number: UInt[Array, "b"]


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
      model: a `models.Network`.

    Returns:
      The next state, and metrics: loss, gradient norm and its running median, the
      verdict on the step (`state.GOOD` and others), for each kind of sample and noise
      bin the sum of losses and the number of samples, and each sample's number and
      loss.
    """

    def loss_fn(params, part, keys):
        losses = sample_losses(
            params, part, keys, model=model, edm=edm, training=training
        )
        samples = {"number": losses.number, "loss": losses.loss}
        return losses.loss.mean(), (_binned(losses), samples)

    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
    keys = StepKeys(run=key, step=jax.random.fold_in(key, state.step))
    if training.microbatches == 1:
        (loss, (bins, samples)), grads = grad_fn(state.params, batch, keys)
        samples = jax.tree.map(lambda leaf: leaf[None], samples)
    else:
        loss, bins, samples, grads = _accumulated(
            grad_fn, state.params, batch, keys, training
        )
    with jax.named_scope("optimizer"):  # listed separately in profiles
        after, metrics = updated(state, loss, grads, optimizer)
    return after, {"loss": loss, **metrics, **bins, "samples": samples}


def train_step_of(experiment):
    """`train_step` of a `config.Experiment`, with its model, settings and optimizer."""
    return functools.partial(
        train_step,
        model=experiment.model,
        edm=experiment.diffusion,
        optimizer=experiment.optimizer,
        training=experiment.training,
    )


def jit_train_step(experiment, mesh, places: TrainState):
    """`train_step` of an experiment on a mesh, jitted; the given state is donated.

    Args:
      experiment: a `config.Experiment`.
      mesh: it runs on its devices.
      places: shardings of the state, before and after the step.
    """
    whole, over_batch = NamedSharding(mesh, PartitionSpec()), batch_sharding(mesh)
    metrics = dict.fromkeys(METRICS, whole) | {"samples": None}  # any sharding
    return jax.jit(
        with_layout(train_step_of(experiment), mesh),
        in_shardings=(places, over_batch, whole),
        out_shardings=(places, metrics),
        donate_argnums=0,
    )


def sample_losses(
    params: Params, batch: Batch, keys: StepKeys, *, model, edm: EDM, training: Training
) -> SampleLosses:
    """Loss, noise level, kind and number of every sample of a batch."""
    parts = []
    for framework, part in _by_framework(edm, batch, training):
        diffused = forward_process(part, keys.run, framework, training)
        output = predict(params, diffused, keys.step, model, framework, training)
        clip, eps, sigma, *_ = diffused
        loss = framework.loss(output, clip, eps, sigma)
        parts.append((loss, sigma, part["frame_interval"] == 0, part["sample"]))
    return SampleLosses(*map(jnp.concatenate, zip(*parts, strict=True)))


def forward_process(batch: Batch, key: Array, edm: EDM, training: Training) -> Diffused:
    """Clips at random noise levels, and their context with label dropout.

    Args:
      batch: videos, images, or both where images are videos.
      key: of the run.
      edm: the framework of these clips.
    """
    clip = constrain(pixels(batch["video"]), *CLIP_AXES)
    keys = sample_keys(key, batch["sample"])
    sigma = edm.training_sigma(fold_in(keys, SIGMA))
    eps = constrain(normal(fold_in(keys, NOISE), clip.shape[1:]), *CLIP_AXES)
    level = broadcast(sigma, clip)
    noisy = edm.c_in(level) * edm.corrupt(clip, eps, level)
    drop = jax.vmap(jax.random.uniform)(fold_in(keys, LABEL)) < training.label_dropout
    context = context_of(batch, drop)
    if any(training.low_resolution):
        context = with_low_resolution(context, clip, keys, training)
    return Diffused(clip, eps, sigma, noisy, context)


def predict(
    params: Params,
    diffused: Diffused,
    dropout_key: Array,
    model,
    edm: EDM,
    training: Training,
) -> Float[Array, "b t h w c"]:
    """The network's output ``F`` in training, with dropout and self-conditioning."""
    inputs = diffused.noisy, edm.c_noise(diffused.sigma), diffused.context
    previous = first_pass(params, *inputs, model, training)
    rngs = {"dropout": dropout_key}
    output, _ = model.apply(
        {"params": params}, *inputs, previous, train=True, rngs=rngs
    )
    return output


def with_low_resolution(
    context: Context, clip: Float[Array, "b t h w c"], keys: Keys, training: Training
) -> Context:
    """The context with low-resolution conditioning.

    Args:
      context: of the upsampler.
      clip: its target, in -1..1, which is shrunk, corrupted and enlarged again.
      keys: of the samples.
      training: gives the size of the shrunk clip and its largest noise level.
    """
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
    need it; samples are shuffled, so this choice is random. Where these samples do not
    divide evenly over the devices, all samples run it, and the latents of the others
    are marked as unknown.
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


def _by_framework(
    edm: EDM, batch: Batch, training: Training
) -> list[tuple[EDM, Batch]]:
    """The batch with its framework.

    Where images are not videos ([P] Tab. 3, iv), its videos, and its images cut to one
    frame, each with their own.
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


def _binned(losses: SampleLosses) -> dict[str, Float[Array, "kinds bins"]]:
    """Sums of losses and counts, by kind (video, image) and noise bin."""
    bins = jnp.searchsorted(jnp.array(BIN_EDGES), losses.sigma)
    index = bins + (len(BIN_EDGES) + 1) * losses.is_image
    where = jax.nn.one_hot(index, 2 * (len(BIN_EDGES) + 1))
    shape = (2, len(BIN_EDGES) + 1)
    return {
        "loss_sum": jnp.einsum("b,bj->j", losses.loss, where).reshape(shape),
        "loss_count": where.sum(0).reshape(shape),
    }


def microbatches_of(batch, training: Training):
    """The leaves of a batch, ``b ...``, cut into microbatches, ``k b ...``.

    A microbatch takes every k-th run of ``self_conditioning_period`` samples, so it has
    the batch's mixture of kinds and stays on the devices that hold it.
    """
    sizes = dict(k=training.microbatches, u=training.self_conditioning_period)
    return jax.tree.map(
        lambda leaf: rearrange(leaf, "(s k u) ... -> k (s u) ...", **sizes), batch
    )


def _accumulated(grad_fn, params: Params, batch: Batch, keys: StepKeys, training):
    """Loss, bins, samples and gradients of all microbatches, averaged."""
    parts = microbatches_of(batch, training)

    def body(total, inputs):
        index, part = inputs
        part_keys = keys._replace(step=jax.random.fold_in(keys.step, index))
        (loss, (bins, samples)), grads = grad_fn(params, part, part_keys)
        return jax.tree.map(jnp.add, total, (loss, bins, grads)), samples

    first = jax.tree.map(lambda leaf: leaf[0], parts)
    shapes = jax.eval_shape(lambda: grad_fn(params, first, keys))
    (loss, (bins, _)), grads = jax.tree.map(
        lambda s: jnp.zeros(s.shape, s.dtype), shapes
    )
    count = training.microbatches
    (loss, bins, grads), samples = jax.lax.scan(
        body, (loss, bins, grads), (jnp.arange(count), parts)
    )
    return loss / count, bins, samples, jax.tree.map(lambda leaf: leaf / count, grads)
