"""The jitted sampler against a Python loop over jitted denoise calls.

    python benchmarks/sampler_loop.py --workdir runs/demo

Both sample the same clips from the run's model: the sampler of `snapvideo sample`, and
a loop in Python that calls the jitted, guided denoiser and does the solver's arithmetic
in between. Their runs alternate. Prints clips per second at several batch sizes, the
ratio, and the memory of the compiled sampler in addition to its arguments, by steps.
Bars: at least 1.5 times the clips per second, and equal memory (within 1%) for all
numbers of steps.
"""

import argparse
import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from snapvideo_jax.diffusion import (
    SOLVERS,
    Stepwise,
    initial_noise,
    interleave,
    sigma_schedule,
    with_guidance,
)
from snapvideo_jax.diffusion.noise import sample_keys
from snapvideo_jax.diffusion.solvers import Step
from snapvideo_jax.parallel.sharding import batch_sharding, with_layout
from snapvideo_jax.planning import programs
from snapvideo_jax.planning.bench import interleaved
from snapvideo_jax.sampling import loading, options
from snapvideo_jax.sampling.generator import Generator, Request, as_bytes
from snapvideo_jax.step import make_denoise
from snapvideo_jax.types import Context, embedded

RATIO, GROWTH = 1.5, 1.01
PROMPT = "a red cross moving left"


def looped(experiment, params, mesh, request: Request):
    """A function that samples a request's clips by a loop in Python."""
    model, edm, sampler = experiment.model, experiment.diffusion, experiment.sampler
    count, solver = len(request.numbers), SOLVERS[sampler.solver]
    place, embed = batch_sharding(mesh), experiment.text.on_devices(mesh)
    keys = sample_keys(jax.random.key(request.seed), jnp.asarray(request.numbers))
    size = (model.frames, model.height, model.width, model.out_channels)
    levels = np.asarray(sigma_schedule(edm, sampler.steps))
    ratios = np.append(solver.half_step_ratios(jnp.asarray(levels[:-1])), 0.0)

    def denoised(params, inputs, index, x, sigma, carry):
        keep = jnp.zeros(count, bool)
        context = Context(**inputs, drop_text=keep)
        if request.guidance:
            context = interleave(context, context.replace(drop_text=~keep))
        weight = request.guidance or None
        denoise = with_guidance(
            make_denoise(model, params, edm, context),
            experiment.guidance,
            sampler.steps,
            weight,
            None,
        )
        if isinstance(denoise, Stepwise):
            denoise = denoise.at(index)
        clip, carry = denoise(x, jnp.full(count, sigma), carry)
        return clip / edm.sigma_in, carry

    jitted = jax.jit(with_layout(denoised, mesh))

    def call():
        text, mask = experiment.text.encode(list(request.prompts))
        inputs = {
            "text_input": text,
            "text_mask": mask,
            "frame_interval": np.full(count, 1 / request.fps, np.float32),
            "resolution": np.full((count, 2), request.resolution, np.float32),
        }
        inputs = embedded(jax.device_put(inputs, place), embed)
        x = jax.device_put(initial_noise(keys, size, edm), place)
        carry = model.no_latents(count * (2 if request.guidance else 1))
        past = jnp.zeros_like(x)
        for index in range(sampler.steps - 1):

            def estimate(x, sigma, carry, index=index):
                return jitted(params, inputs, index, x, sigma, carry)

            step = Step(levels[index], levels[index + 1], ratios[index])
            x, carry, past = solver.advance(estimate, x, carry, past, step)
        last = sampler.steps - 1
        clips, _ = jitted(params, inputs, last, x, levels[last], carry)
        return np.asarray(as_bytes(edm.sigma_in * clips))

    return call


def memory(experiment, mesh, steps: int, clips: int) -> int:
    """Temporary memory of the compiled sampler in bytes."""
    sampler = dataclasses.replace(experiment.sampler, steps=steps)
    asked = programs.sampler(
        dataclasses.replace(experiment, sampler=sampler), mesh, clips
    )
    compiled = asked.jitted.lower(*asked.arguments, **asked.options).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workdir", required=True, metavar="DIR", help="of the demo")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--memory_steps", type=int, nargs="+", default=[8, 32, 256])
    parser.add_argument("--repeats", type=int, default=5, help="counted turns: 5")
    arguments = parser.parse_args()
    experiment, params, _, mesh = loading.load(Path(arguments.workdir))
    sheets = experiment.sheets
    print("| clips at once | loop, clips/s | jitted, clips/s | ratio | apart |")
    print("|---|---|---|---|---|")
    ratios = {}
    for batch in arguments.batches:
        generator = Generator(experiment, experiment.sampler, mesh)
        request = Request(
            prompts=[PROMPT] * batch,
            numbers=range(batch),
            seed=0,
            guidance=sheets.guidance,
            fps=sheets.fps,
            resolution=options.resolution_of(experiment),
        )
        calls = {
            "loop": looped(experiment, params, mesh, request),
            "jitted": lambda generator=generator, request=request: generator(
                params, request
            ),
        }
        apart = np.abs(calls["loop"]().astype(int) - calls["jitted"]()).mean()
        found = interleaved(calls, arguments.repeats, warm_up=1)
        rates = {name: batch / times.median for name, times in found.items()}
        ratios[batch] = rates["jitted"] / rates["loop"]
        print(
            f"| {batch} | {rates['loop']:.2f} | {rates['jitted']:.2f} | "
            f"{ratios[batch]:.2f} | {apart:.3f} of 255 |"
        )
    used = {
        steps: memory(experiment, mesh, steps, arguments.batches[0])
        for steps in arguments.memory_steps
    }
    text = ", ".join(f"{n} steps {size / 1e6:.2f} MB" for n, size in used.items())
    print(f"memory of the compiled sampler: {text}")
    for batch, ratio in ratios.items():
        print(
            f"{'HOLDS' if ratio >= RATIO else 'FAILS'}: {ratio:.2f} times the clips a "
            f"second of the loop at {batch} clips at once; wanted {RATIO} or more."
        )
    is_constant = max(used.values()) <= GROWTH * min(used.values())
    print(f"{'HOLDS' if is_constant else 'FAILS'}: memory is constant in the steps.")


if __name__ == "__main__":
    main()
