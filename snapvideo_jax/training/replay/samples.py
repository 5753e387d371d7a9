"""Losses of all samples of a batch, and a view of some of them."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from einops import rearrange
from jaxtyping import Float, Int, UInt8

from snapvideo_jax.diffusion.edm import broadcast
from snapvideo_jax.parallel.sharding import to_host, with_layout
from snapvideo_jax.step import (
    StepKeys,
    forward_process,
    microbatches_of,
    predict,
    sample_losses,
)
from snapvideo_jax.training.replay.rebuild import RebuiltStep


@dataclasses.dataclass(frozen=True)
class SampleView:
    """One sample.

    grad_norm: norm of the gradient of its loss; the batch's gradient is the mean of
        the gradients of its samples.
    clip, noisy, denoised: the sample, the network's input (scaled to be visible), and
        the denoised clip; frames in 0..255.
    """

    grad_norm: float
    clip: UInt8[np.ndarray, "t h w c"]
    noisy: UInt8[np.ndarray, "t h w c"]
    denoised: UInt8[np.ndarray, "t h w c"]


def row_losses(
    rebuilt: RebuiltStep,
) -> tuple[Float[np.ndarray, "b"], Float[np.ndarray, "b"]]:
    """Loss and noise level of every sample, in the order of the batch.

    They are computed within the batch or its microbatches, as in training: with
    dropout a sample alone has another loss.
    """
    step = functools.partial(_all_losses, experiment=rebuilt.experiment)
    found, sigma = jax.jit(with_layout(step, rebuilt.mesh))(
        rebuilt.state.params, rebuilt.state.step, rebuilt.batch, rebuilt.key
    )
    order = _order(rebuilt.experiment)
    unsorted = np.stack([np.ravel(to_host(found)), np.ravel(to_host(sigma))])
    in_order = np.empty_like(unsorted)
    in_order[:, order] = unsorted
    return in_order[0], in_order[1]


def _all_losses(params, step, batch, key, *, experiment):
    training = experiment.training
    step_key = jax.random.fold_in(key, step)

    def of_part(part, part_key):
        losses = sample_losses(
            params,
            part,
            StepKeys(run=key, step=part_key),
            model=experiment.model,
            edm=experiment.diffusion,
            training=training,
        )
        return losses.loss, losses.sigma

    if training.microbatches == 1:
        return of_part(batch, step_key)
    parts = microbatches_of(batch, training)
    return jax.lax.map(
        lambda each: of_part(each[1], jax.random.fold_in(step_key, each[0])),
        (jnp.arange(training.microbatches), parts),
    )


def _order(experiment) -> Int[np.ndarray, "b"]:
    """The row of each loss of a step: videos and images may be separate passes."""
    training = experiment.training
    parts = microbatches_of(np.arange(experiment.data.batch), training)
    if not experiment.diffusion.images_as_videos:
        unit = training.videos + training.images
        runs = rearrange(parts, "k (s u) -> k s u", u=unit)
        kinds = runs[:, :, : training.videos], runs[:, :, training.videos :]
        parts = np.concatenate([each.reshape(len(parts), -1) for each in kinds], 1)
    return parts.reshape(-1)


def view_samples(rebuilt: RebuiltStep, rows: Sequence[int]) -> Iterator[SampleView]:
    """Views of some samples, one after another, on one device.

    Memory is that of one sample, the parameters and their gradient. The dropout mask of
    a sample differs from the one in its batch.
    """
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    params = jax.device_put(rebuilt.state.params, device)
    key = jax.random.key(rebuilt.experiment.seed)
    step_key = jax.random.fold_in(key, int(rebuilt.state.step))
    host = jax.tree.map(to_host, rebuilt.batch)
    period = rebuilt.experiment.training.self_conditioning_period
    conditioned = rebuilt.experiment.training.self_conditioned
    programs: dict[tuple[bool, bool], Any] = {}
    for row in rows:
        one = jax.tree.map(lambda leaf, row=row: leaf[row : row + 1], host)
        is_image = bool(one["frame_interval"][0] == 0)
        which = row % period < conditioned, is_image
        if which not in programs:
            programs[which] = _program(rebuilt.experiment, *which)
        one = jax.device_put(one, device)
        norm, *clips = programs[which](params, one, key, step_key)
        yield SampleView(float(norm), *map(_as_frames, clips))


def _program(experiment: Any, conditioned: bool, is_image: bool):
    """The jitted program of a view."""
    training = dataclasses.replace(
        experiment.training,
        self_conditioning=float(conditioned),
        self_conditioning_period=1,
        microbatches=1,
    )
    edm = experiment.diffusion

    def look(params, one, key, step_key):
        kind = edm
        if is_image and not edm.images_as_videos:
            kind, one = edm.for_images(), one | {"video": one["video"][:, :1]}

        def loss_fn(params):
            diffused = forward_process(one, key, kind, training)
            output = predict(
                params, diffused, step_key, experiment.model, kind, training
            )
            clip, eps, sigma, *_ = diffused
            return kind.loss(output, clip, eps, sigma)[0], (clip, eps, sigma, output)

        grads, (clip, eps, sigma, output) = jax.grad(loss_fn, has_aux=True)(params)
        level = broadcast(sigma, clip)
        noisy = kind.corrupt(clip, eps, level)
        denoised = kind.denoised(noisy, output, sigma)
        # As bright as the clip if there is little noise.
        seen = kind.c_in(level) * noisy * min(1.0, kind.sigma_data)
        return optax.tree.norm(grads), clip[0], seen[0], denoised[0]

    return jax.jit(look)


def _as_frames(clip) -> UInt8[np.ndarray, "t h w c"]:
    """-1..1 to 0..255; NaN is grey."""
    known = np.nan_to_num(np.asarray(clip, np.float32), nan=0.0)
    return np.uint8(np.clip(np.round(127.5 * (known + 1)), 0, 255))
