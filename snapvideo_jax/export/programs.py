"""The denoiser and the whole sampler of a model as StableHLO, by `jax.export`.

The first argument of a program is the weights, by their names in the bundle's files;
the second is its inputs, by name. Both are described in signature.json; the batch size
is symbolic. Programs run on one device, and draw noise from a seed and the number of
each sample, as `snapvideo sample` does.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict
from jax import export

from snapvideo_jax.diffusion import Sampler
from snapvideo_jax.export import standalone
from snapvideo_jax.io.files import write_atomically, write_json
from snapvideo_jax.sampling.cascade import STREAM
from snapvideo_jax.sampling.generator import SamplerInputs, SamplerProgram, as_bytes
from snapvideo_jax.step import make_denoise
from snapvideo_jax.types import Context, Latents

PLATFORMS = ("tpu", "cuda", "cpu")
FOLDER, BATCH = "stablehlo", "b"
TEXT = ("text", "text_mask", "frame_interval", "resolution")
SAMPLER = ("solver", "steps", "churn")
"""Fields of a sampler that options can set; they are stored in signature.json."""
MEANING = {
    "text": "embeddings of the captions, zero past their length",
    "text_mask": "true where text has a token of the caption",
    "frame_interval": "seconds between frames; 0 for an image",
    "resolution": "height and width of the original that is conditioned on, in pixels",
    "negative_text": "embeddings of the negative prompt",
    "negative_text_mask": "mask of negative_text",
    "numbers": "of each sample; with the seed it determines the sample's noise",
    "seed": "of the noise",
    "guidance": "weight g of D_c + g (D_c - D_u); 0 is the plain conditional model",
    "noisy": "the clip at its noise level, x / sigma_in + sigma eps",
    "sigma": "the noise level",
    "drop_text": "true where the caption is dropped (unconditional)",
    "latents": "latents of the previous call, for self-conditioning",
    "latents_known": "true where there was a previous call",
    "low_resolution": "the small clip, resized to the size of the large one",
    "low_resolution_noise": "standard deviation of the noise in it",
    "small": "the clip to enlarge, in -1..1: frames of the first stage's sampler; the "
    "program rounds them to bytes, like files",
    "small_noise": "standard deviation of the noise added to small, in -1..1; "
    "from 0 to training.low_resolution_noise of config.json",
    "clip": "the clip, in about -1..1",
    "frames": "the clip in -1..1; bytes are round(127.5 (x + 1))",
}


@dataclasses.dataclass(frozen=True)
class Program:
    """A function of weights and inputs, and the shapes of the inputs.

    Attributes:
      function: of weights and inputs, both by name.
      inputs: shape and dtype of each, with "b" for the batch.
    """

    function: Callable[[Any, Mapping[str, Any]], dict[str, Any]]
    inputs: Mapping[str, tuple[tuple[int | str, ...], Any]]

    def shapes(self, batch: Any) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of the inputs for a batch size, which may be symbolic."""
        return {
            name: jax.ShapeDtypeStruct(
                tuple(batch if size == BATCH else size for size in shape), dtype
            )
            for name, (shape, dtype) in self.inputs.items()
        }


def programs_of(experiment, sampler: Sampler) -> dict[str, Program]:
    """The denoiser and the sampler of an experiment, by name.

    Args:
      experiment: a `config.Experiment`.
      sampler: solver, steps and churn of the sampler.
    """
    return {
        "denoiser": denoiser(experiment),
        "sampler": sampler_program(experiment, sampler),
    }


def denoiser(experiment) -> Program:
    """``D(x, sigma)``, and the latents for self-conditioning of the next call."""
    model, text = experiment.model, experiment.text
    clip = (BATCH, model.frames, model.height, model.width, model.out_channels)
    inputs = {"noisy": (clip, jnp.float32), "sigma": ((BATCH,), jnp.float32)}
    inputs |= _text_inputs(text) | {"drop_text": ((BATCH,), jnp.bool_)}
    if model.is_upsampler:
        inputs["low_resolution"] = (clip, jnp.float32)
        inputs["low_resolution_noise"] = ((BATCH,), jnp.float32)
    fields = tuple(name for name in inputs if name not in ("noisy", "sigma"))
    if model.self_conditions:
        size = (BATCH, model.latents, model.latent_width)
        inputs["latents"] = (size, jnp.float32)
        inputs["latents_known"] = ((BATCH,), jnp.bool_)

    def denoise(weights, inputs):
        context = Context(**{name: inputs[name] for name in fields})
        carry = model.no_latents(inputs["noisy"].shape[0])
        if model.self_conditions:
            latents = inputs["latents"].astype(model.dtype)
            carry = Latents(value=latents, known=inputs["latents_known"])
        call = make_denoise(model, _params(weights), experiment.diffusion, context)
        clip, carry = call(inputs["noisy"], inputs["sigma"], carry)
        if not model.self_conditions:
            return {"clip": clip}
        return {"clip": clip, "latents": carry.value.astype(jnp.float32)}

    return Program(denoise, inputs)


def sampler_program(experiment, sampler: Sampler) -> Program:
    """Text to frames, with guidance, equal to those of `snapvideo sample`.

    That of an upsampler takes a small clip as well, and uses the noise stream of the
    second stage: with frames, numbers and seed of the first stage's sampler, the two
    programs sample the clips of `snapvideo sample --cascade`.
    """
    model, text = experiment.model, experiment.text
    negative = bool(experiment.guidance.negative_prompt)
    inputs = _text_inputs(text)
    if negative:
        inputs |= {f"negative_{name}": inputs[name] for name in ("text", "text_mask")}
    inputs["numbers"] = ((BATCH,), jnp.uint32)
    inputs |= {"seed": ((), jnp.uint32), "guidance": ((), jnp.float32)}
    if model.is_upsampler:
        low = experiment.training.low_resolution
        size = (BATCH, model.frames, *low, model.out_channels)
        inputs |= {"small": (size, jnp.float32), "small_noise": ((), jnp.float32)}
    generate = generation(experiment, sampler)

    def frames(weights, inputs):
        other = ("text", "text_mask") if negative else ()
        low_resolution = {}
        if model.is_upsampler:
            low_resolution = {
                "small": as_bytes(inputs["small"]),
                "small_noise": inputs["small_noise"],
                "stream": STREAM,
            }
        batch = SamplerInputs(
            conditioning={name: inputs[name] for name in TEXT},
            numbers=inputs["numbers"],
            key=jax.random.key(inputs["seed"]),
            guidance=inputs["guidance"],
            negative={name: inputs[f"negative_{name}"] for name in other} or None,
            **low_resolution,
        )
        return {"frames": generate(_params(weights), batch)}

    return Program(frames, inputs)


def generation(experiment, sampler: Sampler) -> SamplerProgram:
    """The sampler of `generator.Generator`, with clips in -1..1."""
    return SamplerProgram(
        experiment, sampler, finish=lambda clips: jnp.clip(clips, -1, 1)
    )


def write(
    out: Path,
    programs: Mapping[str, Program],
    weights: Mapping[str, np.ndarray],
    platforms: Sequence[str],
    **about: Any,
) -> None:
    """Writes programs, their signature, and the script that runs them with JAX alone.

    Args:
      out: folder of the bundle.
      programs: by name.
      weights: by name, as stored in the bundle.
      platforms: that the programs run on, some of `PLATFORMS`.
      about: further fields of the signature.
    """
    shapes = {n: jax.ShapeDtypeStruct(w.shape, w.dtype) for n, w in weights.items()}
    listed = {}
    for name, program in programs.items():
        (batch,) = export.symbolic_shape(BATCH)
        exported = export.export(jax.jit(program.function), platforms=tuple(platforms))(
            shapes, program.shapes(batch)
        )
        file = f"{name}.jax_export"
        write_atomically(out / FOLDER / file, bytes(exported.serialize()))
        outputs = jax.eval_shape(program.function, shapes, program.shapes(batch))
        listed[name] = {
            "file": file,
            "calling_convention_version": exported.calling_convention_version,
            "inputs": _described(program.shapes(batch)),
            "outputs": _described(outputs),
        }
    signature = {
        "jax_version": jax.__version__,
        "platforms": list(platforms),
        "batch": f"any; the same number wherever a shape has {BATCH!r}",
        "weights": "the first argument: the arrays of model*.safetensors, by name",
        **about,
        "programs": listed,
    }
    path = out / FOLDER / "signature.json"
    write_json(path, signature)
    script = Path(standalone.__file__).read_bytes()
    write_atomically(out / FOLDER / "run.py", script)


def _text_inputs(text) -> dict[str, tuple[tuple, Any]]:
    return {
        "text": ((BATCH, text.tokens, text.width), jnp.float32),
        "text_mask": ((BATCH, text.tokens), jnp.bool_),
        "frame_interval": ((BATCH,), jnp.float32),
        "resolution": ((BATCH, 2), jnp.float32),
    }


def _params(weights) -> Any:
    """The parameter tree of a network in float32, from weights of any dtype."""
    leaves = {name: leaf.astype(jnp.float32) for name, leaf in weights.items()}
    return unflatten_dict(leaves, sep="/")


def _described(shapes) -> dict[str, Any]:
    return {
        name: {
            "shape": [size if isinstance(size, int) else BATCH for size in leaf.shape],
            "dtype": leaf.dtype.name,
            "meaning": MEANING[name],
        }
        for name, leaf in shapes.items()
    }
