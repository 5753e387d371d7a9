"""The jitted sampler of clips: from captions, a small clip, or frames that are known.

Sample ``i`` of a seed starts from the same noise whatever is sampled beside it, so it
comes out the same at any batch size and on any number of devices.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, UInt8

from snapvideo_jax import config as configs
from snapvideo_jax.diffusion import (
    EDM,
    Guidance,
    Reconstruction,
    Sampler,
    initial_noise,
    noised,
    pairs,
    reconstruct,
    sample,
    with_guidance,
)
from snapvideo_jax.diffusion.low_resolution import corrupted
from snapvideo_jax.diffusion.noise import normal, purpose, sample_keys
from snapvideo_jax.diffusion.trajectory import nothing_kept, recorded
from snapvideo_jax.parallel.sharding import (
    batch_sharding,
    constrain,
    filled_up,
    laid_out,
    on_host,
    put_key,
)
from snapvideo_jax.step import make_denoise
from snapvideo_jax.types import CLIP_AXES, Context, pixels

CORRUPTION = 2**31
"""What a sample's key is split for, beside the numbers of the sampler's steps."""


@dataclasses.dataclass(frozen=True)
class Request:
    """What is sampled, in a chunk of samples of equal settings.

    Attributes:
      prompts: a caption for each sample; "" is unconditional.
      numbers: number of each sample under ``seed``; its noise depends on no other.
      seed: of the noise.
      guidance: weight ``g``; 0 is the plain conditional model (1 + g in other papers).
      fps: frame-rate the clips are conditioned on, one or one for each sample; 0 for
        images.
      resolution: height and width of the original that they are conditioned on.
      stream: of the noise. Clips of one sample that are made one after another take
        different ones.
      small: what an upsampler enlarges, in 0..255, a clip for each sample.
      small_noise: standard deviation of the noise that is added to it, in -1..1.
      known: clips in 0..255 whose frames ``is_known`` come back as they are, by
        reconstruction guidance; the others are ignored.
      is_known: which frames are known, in all clips.
      clip: what a `Generator` with a ``first`` step begins with, in 0..255.
    """

    prompts: Sequence[str]
    numbers: Sequence[int]
    seed: int
    guidance: float
    fps: float | Sequence[float]
    resolution: tuple[int, int]
    stream: int = 0
    small: UInt8[np.ndarray, "b t y x c"] | None = None
    small_noise: float = 0.0
    known: UInt8[np.ndarray, "b t h w c"] | None = None
    is_known: Bool[np.ndarray, "t"] | None = None
    clip: UInt8[np.ndarray, "b t h w c"] | None = None


@dataclasses.dataclass(frozen=True)
class Guide:
    """A smaller or earlier model that guides another (autoguidance).

    Attributes:
      model, edm: network and preconditioning, of its own run.
      params: of the network.
    """

    model: Any
    edm: EDM
    params: Any


@dataclasses.dataclass(frozen=True)
class Made:
    """Clips in 0..255, and how they came to be.

    Attributes:
      clips: one for each sample.
      noisy: what the network was shown at some noise levels, scaled to about -1..1.
      estimates: what it made of it. Both are None where nothing was kept.
    """

    clips: UInt8[np.ndarray, "b t h w c"]
    noisy: UInt8[np.ndarray, "b k t h w c"] | None = None
    estimates: UInt8[np.ndarray, "b k t h w c"] | None = None


class Generator:
    """A sampler of clips, compiled once for a batch size, with guidance and without.

    Args:
      experiment: gives model, diffusion, text encoder, and how it is guided.
      sampler: steps, solver, churn.
      mesh: whose devices the samples are divided over.
      guide: the guiding model, if there is one.
      batch: requests of fewer samples are filled up to so many, so that nothing is
        compiled again.
      reconstruction: how known frames are made use of.
      kept: noise levels at which clips are kept as they are made.
      first: step at which clips of requests are noised and enter; 0 for pure noise.

    Raises:
      ValueError: as `jit_generate`.
    """

    def __init__(
        self,
        experiment: "configs.Experiment",
        sampler: Sampler,
        mesh,
        guide: Guide | None = None,
        *,
        batch: int = 1,
        reconstruction: Reconstruction = Reconstruction(),  # noqa: B008
        kept: int = 0,
        first: int = 0,
    ):
        self._experiment = experiment
        self._mesh, self._batch, self._kept = mesh, batch, kept
        self._embed = experiment.text.on_devices(mesh)
        self._guide = guide
        self._generate = jit_generate(
            experiment,
            sampler,
            mesh,
            guide,
            enlarges=experiment.model.is_upsampler,
            reconstruction=reconstruction,
            kept=kept,
            first=first,
        )

    def __call__(self, params: Any, request: Request) -> UInt8[np.ndarray, "b t h w c"]:
        """The clips of a request, in 0..255; all of them in every process."""
        return self.make(params, request).clips

    def make(self, params: Any, request: Request) -> Made:
        """The same, with what was kept of the way there.

        Raises:
          ValueError: an upsampler is given no clip to enlarge.
        """
        if self._experiment.model.is_upsampler and request.small is None:
            _refuse_upsampler()
        count = len(request.prompts)
        filled = filled_up(max(count, self._batch), self._mesh)
        pick = np.minimum(np.arange(filled), count - 1)
        text, mask = self._experiment.text.encode(list(request.prompts))
        fps = np.broadcast_to(np.asarray(request.fps, float), count)
        interval = np.divide(1, fps, out=np.zeros(count), where=fps > 0)
        inputs = {
            "text": text[pick],
            "text_mask": mask[pick],
            "frame_interval": interval.astype(np.float32)[pick],
            "resolution": np.full((filled, 2), request.resolution, np.float32),
        }
        numbers = np.asarray(request.numbers, np.uint32)[pick]
        told = {
            name: clip[pick]
            for name in ("small", "known", "clip")
            if (clip := getattr(request, name)) is not None
        }
        placed = jax.device_put((inputs, numbers, told), batch_sharding(self._mesh))
        inputs, numbers, told = placed
        made = self._generate(
            params,
            self._embed(inputs),
            numbers,
            put_key(request.seed, self._mesh),
            request.guidance,
            negative=self._negative(filled) if request.guidance else None,
            guide_params=self._guide.params if self._guide else None,
            stream=np.uint32(request.stream),
            small_noise=np.float32(request.small_noise),
            is_known=request.is_known,
            **told,
            guided=bool(request.guidance),
        )
        if not self._kept:
            return Made(on_host(made)[:count])
        return Made(*(on_host(part)[:count] for part in made))

    def _negative(self, batch: int):
        """The text of the unconditional pass; None where it is told nothing."""
        prompt = self._experiment.guidance.negative_prompt
        if not prompt:
            return None
        text, mask = self._experiment.text.encode([prompt])
        both = {"text": text, "text_mask": mask}
        both = {name: np.repeat(each, batch, axis=0) for name, each in both.items()}
        return self._embed(jax.device_put(both, batch_sharding(self._mesh)))


def jit_generate(
    experiment: "configs.Experiment",
    sampler: Sampler,
    mesh,
    guide: Guide | None = None,
    *,
    enlarges: bool = False,
    reconstruction: Reconstruction = Reconstruction(),  # noqa: B008
    kept: int = 0,
    first: int = 0,
):
    """`_generate` of an experiment on a mesh, jitted; ``guided`` is static.

    Args:
      experiment, sampler, mesh, guide, reconstruction, kept, first: as of `Generator`.
      enlarges: whether it will be given small clips.

    Raises:
      ValueError: the network is an upsampler, and will be given none.
    """
    if experiment.model.is_upsampler and not enlarges:
        _refuse_upsampler()
    generate = generation_of(
        experiment,
        sampler,
        guide=guide,
        reconstruction=reconstruction,
        steps_kept=kept,
        first=first,
    )
    return jax.jit(
        laid_out(generate, mesh),
        static_argnames="guided",
        out_shardings=batch_sharding(mesh),
    )


def as_bytes(clips):
    """-1..1 to 0..255."""
    return jnp.clip(jnp.rint((clips + 1) * 127.5), 0, 255).astype(jnp.uint8)


def generation_of(experiment: "configs.Experiment", sampler: Sampler, **settings):
    """`_generate` of an experiment, for any mesh; settings are its last arguments."""
    return functools.partial(
        _generate,
        model=experiment.model,
        edm=experiment.diffusion,
        sampler=sampler,
        guidance=experiment.guidance,
        **settings,
    )


def _refuse_upsampler():
    raise ValueError(
        "The run is of an upsampler, which enlarges clips and makes none from "
        "a prompt alone; use a first stage."
    )


def _generate(
    params,
    inputs,
    numbers,
    key,
    weight,
    negative=None,
    guide_params=None,
    stream=0,
    small=None,
    small_noise=0.0,
    known=None,
    is_known=None,
    clip=None,
    *,
    guided,
    model,
    edm: EDM,
    sampler,
    guidance: Guidance,
    guide: Guide | None = None,
    reconstruction: Reconstruction = Reconstruction(),  # noqa: B008
    steps_kept: int = 0,
    first: int = 0,
    finish: Callable = as_bytes,
):
    """Noise to pixels, for one batch of samples.

    Clips in about -1..1 end as what ``finish`` makes of them.
    """
    batch, size = numbers.shape[0], (model.frames, model.height, model.width)
    keys = sample_keys(key, numbers)
    # The first stream is that of the keys themselves.
    other = jax.vmap(jax.random.fold_in, (0, None))
    keys = jnp.where(stream == 0, keys, other(purpose(keys, CORRUPTION), stream))
    start = initial_noise(keys, (*size, model.out_channels), edm)
    if clip is not None:
        start = noised(pixels(clip), start, edm, sampler.steps, first)
    keep = jnp.zeros(batch, bool)
    context = Context(**inputs, drop_text=keep)
    if small is not None:
        eps = normal(purpose(keys, CORRUPTION), small.shape[1:])
        level = jnp.full(batch, small_noise, jnp.float32)
        context = context.replace(
            low_resolution=constrain(
                corrupted(pixels(small), eps, level, size[1:]), *CLIP_AXES
            ),
            low_resolution_noise=level,
        )
    worse, carry = None, model.no_latents(2 * batch if guided else batch)
    if guide is not None:
        worse = make_denoise(guide.model, guide_params, guide.edm, context)
        carry = (carry, guide.model.no_latents(batch))
    if guided:
        other = context.replace(**negative or {"drop_text": ~keep})
        context = pairs(context, other)
    denoise = with_guidance(
        make_denoise(model, params, edm, context),
        guidance,
        sampler.steps,
        weight if guided else None,
        worse,
    )
    if known is not None:
        denoise = reconstruct(denoise, pixels(known), is_known, edm, reconstruction)
    if not steps_kept:
        clips, _ = sample(denoise, start, carry, keys, edm, sampler, first)
        return finish(clips)
    denoise = recorded(denoise, edm, sampler.steps, steps_kept, first)
    carry = (carry, nothing_kept(start, sampler.steps, steps_kept, first))
    clips, (_, kept) = sample(denoise, start, carry, keys, edm, sampler, first)
    return finish(clips), *map(as_bytes, kept)


def chunks(prompts: Sequence[str], batch: int, **settings) -> Iterator[Request]:
    """Requests of up to ``batch`` samples, numbered from 0 in the order of prompts."""
    for first in range(0, len(prompts), batch):
        part = prompts[first : first + batch]
        numbers = range(first, first + len(part))
        yield Request(prompts=part, numbers=numbers, **settings)
