"""The denoiser and the whole sampler of a model as StableHLO, by `jax.export`.

Programs take the weights as their first argument, by the names that the bundle's files
give them, and arrays by name as the second; the batch is of any size. signature.json
tells of both. They run on one device; noise is made inside, from a seed and a number
for each sample, as `snapvideo sample` makes it.
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
"""Fields of a sampler that the command line sets and signature.json tells."""
MEANING = {
    "text": "embeddings of the captions, zero past their length",
    "text_mask": "true where text has a token of the caption",
    "frame_interval": "seconds between frames; 0 for a still",
    "resolution": "height and width of the original that is imagined, in pixels",
    "negative_text": "the same of what is guided away from",
    "negative_text_mask": "its mask",
    "numbers": "of each sample under the seed; its noise depends on no other",
    "seed": "of the noise",
    "guidance": "weight g of D_c + g (D_c - D_u); 0 is the plain conditional model",
    "noisy": "the clip at its noise level, x / sigma_in + sigma eps",
    "sigma": "the noise level",
    "drop_text": "true where the network is told no text",
    "latents": "of a call, which the next is told",
    "latents_known": "true where there was one",
    "low_resolution": "the small clip in the size of the large one",
    "low_resolution_noise": "standard deviation of the noise in it",
    "small": "the clip to enlarge, in -1..1: frames of the first stage's sampler; "
    "rounded to bytes inside, as its files are",
    "small_noise": "standard deviation of the noise that small is given, in -1..1; "
    "from 0 to training.low_resolution_noise of config.json",
    "clip": "the clip, in about -1..1",
    "frames": "the clip in -1..1; bytes are round(127.5 (x + 1))",
}


@dataclasses.dataclass(frozen=True)
class Program:
    """A function of weights and inputs, and the shapes of the inputs.

    Attributes:
      function: of weights and inputs, both by name.
      inputs: shape and type of each, with "b" for the batch.
    """

    function: Callable[[Any, Mapping[str, Any]], dict[str, Any]]
    inputs: Mapping[str, tuple[tuple[int | str, ...], Any]]

    def shapes(self, batch: Any) -> dict[str, jax.ShapeDtypeStruct]:
        """Of the inputs, for a batch that may be a symbol."""
        return {
            name: jax.ShapeDtypeStruct(
                tuple(batch if size == BATCH else size for size in shape), dtype
            )
            for name, (shape, dtype) in self.inputs.items()
        }


def programs_of(experiment, sampler: Sampler) -> dict[str, Program]:
    """The programs of an experiment by name.

    Args:
      experiment: a `config.Experiment`.
      sampler: steps, solver and churn of the sampler.
    """
    return {
        "denoiser": denoiser(experiment),
        "sampler": sampler_program(experiment, sampler),
    }


def denoiser(experiment) -> Program:
    """``D(x, sigma)``, and the latents that the next call may be told."""
    model, text = experiment.model, experiment.text
    clip = (BATCH, model.frames, model.height, model.width, model.out_channels)
    inputs = {"noisy": (clip, jnp.float32), "sigma": ((BATCH,), jnp.float32)}
    inputs |= _text_inputs(text) | {"drop_text": ((BATCH,), jnp.bool_)}
    if model.is_upsampler:
        inputs["low_resolution"] = (clip, jnp.float32)
        inputs["low_resolution_noise"] = ((BATCH,), jnp.float32)
    told = tuple(name for name in inputs if name not in ("noisy", "sigma"))
    if model.self_conditions:
        size = (BATCH, model.latents, model.latent_width)
        inputs["latents"] = (size, jnp.float32)
        inputs["latents_known"] = ((BATCH,), jnp.bool_)

    def denoise(weights, inputs):
        context = Context(**{name: inputs[name] for name in told})
        carry = model.no_latents(inputs["noisy"].shape[0])
        if model.self_conditions:
            latents = inputs["latents"].astype(model.dtype)
            carry = Latents(value=latents, known=inputs["latents_known"])
        call = make_denoise(model, _params(weights), experiment.diffusion, context)
        made, carry = call(inputs["noisy"], inputs["sigma"], carry)
        if not model.self_conditions:
            return {"clip": made}
        return {"clip": made, "latents": carry.value.astype(jnp.float32)}

    return Program(denoise, inputs)


def sampler_program(experiment, sampler: Sampler) -> Program:
    """Text to frames, with guidance, as `snapvideo sample` makes them.

    An upsampler's takes a small clip as well, and its noise is that of the second stage
    of `snapvideo sample --cascade`: with the frames, numbers and seed of the first
    stage's sampler, both make what that command makes.
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
        told = {}
        if model.is_upsampler:
            told = {
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
            **told,
        )
        return {"frames": generate(_params(weights), batch)}

    return Program(frames, inputs)


def generation(experiment, sampler: Sampler) -> SamplerProgram:
    """The sampler of `generator.Generator`, to clips in -1..1."""
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
    """Writes programs, their signature, and a script that runs them with JAX alone.

    Args:
      out: of the bundle.
      programs: by name.
      weights: as the programs will be given them.
      platforms: they can run on; some of `PLATFORMS`.
      about: more for the signature.
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
            "inputs": _told(program.shapes(batch)),
            "outputs": _told(outputs),
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
    """The tree of a network, in float32, whatever the weights are stored in."""
    leaves = {name: leaf.astype(jnp.float32) for name, leaf in weights.items()}
    return unflatten_dict(leaves, sep="/")


def _told(shapes) -> dict[str, Any]:
    return {
        name: {
            "shape": [size if isinstance(size, int) else BATCH for size in leaf.shape],
            "dtype": leaf.dtype.name,
            "meaning": MEANING[name],
        }
        for name, leaf in shapes.items()
    }
