"""The jitted sampler: captions to clips, with or without clips to start from.

Sample ``i`` of a seed starts from the same noise whatever else is in its batch, so it
comes out the same at any batch size and on any number of devices.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, UInt8

from snapvideo_jax.config import Experiment
from snapvideo_jax.diffusion import (
    EDM,
    Reconstruction,
    Sampler,
    initial_noise,
    interleave,
    noised,
    reconstruct,
    sample,
    with_guidance,
)
from snapvideo_jax.diffusion.low_resolution import corrupted
from snapvideo_jax.diffusion.noise import fold_in, normal, sample_keys
from snapvideo_jax.diffusion.trajectory import empty_recording, recorded
from snapvideo_jax.parallel.sharding import (
    batch_sharding,
    constrain,
    put_key,
    round_up_to_devices,
    to_host,
    with_layout,
)
from snapvideo_jax.step import make_denoise
from snapvideo_jax.types import CLIP_AXES, Context, embedded, pixels

CORRUPTION = 2**31
"""fold_in tag of the noise in small clips and of streams above 0.

The sampler's steps use the tags 0 to ``steps``.
"""


@dataclasses.dataclass(frozen=True)
class Request:
    """Samples of equal settings, for one batch.

    Attributes:
      prompts: a caption for each sample; "" is unconditional.
      numbers: number of each sample under ``seed``; its noise depends on no other.
      seed: of the noise.
      guidance: weight ``g``; 0 is the plain conditional model (1 + g in other papers).
      fps: frame rate that clips are conditioned on, one or one for each sample; 0 for
        images.
      resolution: height and width of the original, which clips are conditioned on.
      stream: of the noise; clips of one sample that are sampled one after another
        use different ones.
      small: low-resolution clip in 0..255 for each sample of an upsampler.
      small_noise: standard deviation of the noise that is added to it, in -1..1.
      known: clips in 0..255 whose frames ``is_known`` come back unchanged, by
        reconstruction guidance; other frames are ignored.
      is_known: which frames are known, the same in all clips.
      init_clip: clips in 0..255 that a `Generator` with a ``first_step`` starts from.
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
    init_clip: UInt8[np.ndarray, "b t h w c"] | None = None


def requests_of(
    prompts: Sequence[str] | Mapping[int, str],
    batch: int,
    numbers: Sequence[int] | None = None,
    **settings,
) -> list[Request]:
    """Requests of up to ``batch`` samples.

    Args:
      prompts: by number.
      batch: samples of one request.
      numbers: of the samples that are wanted; None for all prompts.
      settings: further fields of `Request`.
    """
    numbers = range(len(prompts)) if numbers is None else numbers
    parts = [numbers[at : at + batch] for at in range(0, len(numbers), batch)]
    return [
        Request(prompts=[prompts[n] for n in part], numbers=part, **settings)
        for part in parts
    ]


@dataclasses.dataclass(frozen=True)
class Guide:
    """A smaller or earlier model that guides another (autoguidance).

    Attributes:
      model, edm: network and preconditioning of its run.
      params: of the network.
    """

    model: Any
    edm: EDM
    params: Any


@dataclasses.dataclass(frozen=True)
class Samples:
    """Clips in 0..255, and the trajectories on which they were sampled.

    Attributes:
      clips: one for each sample.
      noisy: network inputs at some noise levels, scaled to about -1..1, then 0..255.
      estimates: the network's estimates there. Both are None where none were recorded.
    """

    clips: UInt8[np.ndarray, "b t h w c"]
    noisy: UInt8[np.ndarray, "b k t h w c"] | None = None
    estimates: UInt8[np.ndarray, "b k t h w c"] | None = None


class Generator:
    """A sampler of clips, compiled once for a batch size, with guidance and without.

    Args:
      experiment: gives model, diffusion, text encoder and guidance settings.
      sampler: steps, solver, churn.
      mesh: the samples are divided over its devices.
      guide: the guiding model, if any.
      batch: smaller requests are padded to this size, so that nothing is compiled
        again.
      reconstruction: settings of reconstruction guidance, for known frames.
      trajectory: noise levels at which trajectories are recorded.
      first_step: sampler step at which `Request.init_clip` enters; 0 for pure noise.

    Raises:
      ValueError: as `jit_sampler`.
    """

    def __init__(
        self,
        experiment: Experiment,
        sampler: Sampler,
        mesh,
        guide: Guide | None = None,
        *,
        batch: int = 1,
        reconstruction: Reconstruction = Reconstruction(),  # noqa: B008
        trajectory: int = 0,
        first_step: int = 0,
    ):
        self._experiment = experiment
        self._mesh, self._batch, self._trajectory = mesh, batch, trajectory
        self._embed = experiment.text.on_devices(mesh)
        self._guide_params = guide.params if guide else None
        program = SamplerProgram(
            experiment,
            sampler,
            guide,
            reconstruction=reconstruction,
            trajectory=trajectory,
            first_step=first_step,
        )
        self._generate = jit_sampler(program, mesh, experiment.model.is_upsampler)

    def __call__(self, params: Any, request: Request) -> UInt8[np.ndarray, "b t h w c"]:
        """The clips of a request, in 0..255; all of them in every process."""
        return self.samples(params, request).clips

    def samples(self, params: Any, request: Request) -> Samples:
        """The clips of a request and their trajectories.

        Raises:
          ValueError: the network is an upsampler, and the request has no small clips.
        """
        if self._experiment.model.is_upsampler and request.small is None:
            _refuse_upsampler()
        count = len(request.prompts)
        filled = round_up_to_devices(max(count, self._batch), self._mesh)
        pick = np.minimum(np.arange(filled), count - 1)
        text, mask = self._experiment.text.encode(list(request.prompts))
        fps = np.broadcast_to(np.asarray(request.fps, float), count)
        interval = np.divide(1, fps, out=np.zeros(count), where=fps > 0)
        conditioning = {
            "text_input": text[pick],
            "text_mask": mask[pick],
            "frame_interval": interval.astype(np.float32)[pick],
            "resolution": np.full((filled, 2), request.resolution, np.float32),
        }
        numbers = np.asarray(request.numbers, np.uint32)[pick]
        clips = {
            name: clip[pick]
            for name in ("small", "known", "init_clip")
            if (clip := getattr(request, name)) is not None
        }
        conditioning, numbers, clips = jax.device_put(
            (conditioning, numbers, clips), batch_sharding(self._mesh)
        )
        inputs = SamplerInputs(
            conditioning=embedded(conditioning, self._embed),
            numbers=numbers,
            key=put_key(request.seed, self._mesh),
            guidance=request.guidance or None,
            negative=self._negative(filled) if request.guidance else None,
            stream=np.uint32(request.stream),
            small_noise=np.float32(request.small_noise),
            is_known=request.is_known,
            **clips,
        )
        found = self._generate(params, inputs, self._guide_params)
        if not self._trajectory:
            return Samples(to_host(found)[:count])
        return Samples(*(to_host(part)[:count] for part in found))

    def _negative(self, batch: int):
        """Text of the unconditional pass; None where that pass drops the text."""
        prompt = self._experiment.guidance.negative_prompt
        if not prompt:
            return None
        text, mask = self._experiment.text.encode([prompt])
        both = {"text_input": text, "text_mask": mask}
        both = {name: np.repeat(each, batch, axis=0) for name, each in both.items()}
        return embedded(jax.device_put(both, batch_sharding(self._mesh)), self._embed)


@flax.struct.dataclass
class SamplerInputs:
    """Arrays that a `SamplerProgram` takes for one batch of samples.

    Attributes:
      conditioning: text, text_mask, frame_interval and resolution of `types.Context`.
      numbers: of each sample under the seed ``[b]``.
      key: PRNG key of the seed.
      guidance: weight ``g``; None compiles a program without guidance.
      negative: text and text_mask of a negative prompt.
      stream, small, small_noise, known, is_known, init_clip: as in `Request`.
    """

    conditioning: Mapping[str, Any]
    numbers: Any
    key: Any
    guidance: Any = None
    negative: Mapping[str, Any] | None = None
    stream: Any = None
    small: Any = None
    small_noise: Any = None
    known: Any = None
    is_known: Any = None
    init_clip: Any = None


def as_bytes(clips):
    """-1..1 to 0..255."""
    return jnp.clip(jnp.rint((clips + 1) * 127.5), 0, 255).astype(jnp.uint8)


@dataclasses.dataclass(frozen=True, eq=False)
class SamplerProgram:
    """Noise to pixels for one batch of samples, as a function that JAX traces.

    Attributes:
      experiment, sampler, guide, reconstruction, trajectory, first_step: as for
        `Generator`; of ``guide`` only the network and its preconditioning.
      finish: maps clips in about -1..1 to the result.
    """

    experiment: Experiment
    sampler: Sampler
    guide: Guide | None = None
    reconstruction: Reconstruction = Reconstruction()
    trajectory: int = 0
    first_step: int = 0
    finish: Callable = as_bytes

    def __call__(self, params, inputs: SamplerInputs, guide_params=None):
        """The clips; with a trajectory also noisy inputs and estimates.

        Args:
          params: of the network.
          inputs: of the batch.
          guide_params: of the guiding model's network.
        """
        edm, sampler, first = self.experiment.diffusion, self.sampler, self.first_step
        keys = self._keys(inputs)
        start = self._start(keys, inputs)
        denoise, carry = self._denoiser(params, guide_params, keys, inputs)
        if not self.trajectory:
            clips, _ = sample(denoise, start, carry, keys, edm, sampler, first)
            return self.finish(clips)
        span = sampler.steps, self.trajectory, first
        carry = (carry, empty_recording(start, *span))
        denoise = recorded(denoise, edm, *span)
        clips, (_, way) = sample(denoise, start, carry, keys, edm, sampler, first)
        return self.finish(clips), *map(as_bytes, way)

    def _keys(self, inputs: SamplerInputs):
        """PRNG keys of the samples in a stream; stream 0 uses the samples' own keys."""
        keys = sample_keys(inputs.key, inputs.numbers)
        stream = 0 if inputs.stream is None else inputs.stream
        return jnp.where(stream == 0, keys, fold_in(fold_in(keys, CORRUPTION), stream))

    def _start(self, keys, inputs: SamplerInputs):
        """Pure noise, or the initial clip with the noise of the first step."""
        model, edm = self.experiment.model, self.experiment.diffusion
        shape = (model.frames, model.height, model.width, model.out_channels)
        start = initial_noise(keys, shape, edm)
        if inputs.init_clip is None:
            return start
        clip = pixels(inputs.init_clip)
        return noised(clip, start, edm, self.sampler.steps, self.first_step)

    def _denoiser(self, params, guide_params, keys, inputs: SamplerInputs):
        """The guided denoiser, and the carry of its first call."""
        experiment, guide = self.experiment, self.guide
        model, edm, batch = (
            experiment.model,
            experiment.diffusion,
            inputs.numbers.shape[0],
        )
        is_guided = inputs.guidance is not None
        keep = jnp.zeros(batch, bool)
        context = Context(**inputs.conditioning, drop_text=keep)
        if inputs.small is not None:
            context = self._with_small(context, keys, inputs)
        worse, carry = None, model.no_latents(2 * batch if is_guided else batch)
        if guide is not None:
            worse = make_denoise(guide.model, guide_params, guide.edm, context)
            carry = (carry, guide.model.no_latents(batch))
        if is_guided:
            other = context.replace(**inputs.negative or {"drop_text": ~keep})
            context = interleave(context, other)
        denoise = with_guidance(
            make_denoise(model, params, edm, context),
            experiment.guidance,
            self.sampler.steps,
            inputs.guidance,
            worse,
        )
        if inputs.known is not None:
            denoise = reconstruct(
                denoise, pixels(inputs.known), inputs.is_known, edm, self.reconstruction
            )
        return denoise, carry

    def _with_small(self, context: Context, keys, inputs: SamplerInputs) -> Context:
        """The context with low-resolution conditioning."""
        model, small = self.experiment.model, pixels(inputs.small)
        eps = normal(fold_in(keys, CORRUPTION), small.shape[1:])
        noise = 0.0 if inputs.small_noise is None else inputs.small_noise
        level = jnp.full(keys.shape[0], noise, jnp.float32)
        size = model.height, model.width
        enlarged = constrain(corrupted(small, eps, level, size), *CLIP_AXES)
        return context.replace(low_resolution=enlarged, low_resolution_noise=level)


def jit_sampler(program: SamplerProgram, mesh, has_small_clips: bool = False):
    """A `SamplerProgram`, jitted for a mesh.

    Args:
      program: to be jitted.
      mesh: samples are divided over its devices.
      has_small_clips: whether its inputs will have ``small``.

    Raises:
      ValueError: the network is an upsampler, and there are no small clips.
    """
    if program.experiment.model.is_upsampler and not has_small_clips:
        _refuse_upsampler()
    return jax.jit(with_layout(program, mesh), out_shardings=batch_sharding(mesh))


def _refuse_upsampler():
    raise ValueError(
        "The run is of an upsampler, which enlarges clips and samples none from a "
        "prompt alone; use a first stage."
    )
