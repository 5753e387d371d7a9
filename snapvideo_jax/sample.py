"""Sampling clips from captions: the jitted sampler, and the verb `snapvideo sample`.

Sample ``i`` of a seed starts from the same noise whatever is sampled beside it, so it
comes out the same at any batch size and on any number of devices.
"""

import dataclasses
import functools
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8
from orbax.checkpoint import v1 as ocp

from snapvideo_jax import __version__, distributed, media
from snapvideo_jax import config as configs
from snapvideo_jax.checkpoint import Checkpoints
from snapvideo_jax.diffusion import (
    EDM,
    Guidance,
    Sampler,
    initial_noise,
    pairs,
    sample,
    with_guidance,
)
from snapvideo_jax.guiding import about_guidance, guidance_of, guide_of
from snapvideo_jax.manifest import COMMITTED
from snapvideo_jax.metrics import progress
from snapvideo_jax.options import check_least, read_prompts
from snapvideo_jax.sharding import (
    batch_sharding,
    filled_up,
    laid_out,
    make_mesh,
    on_host,
    placed,
    put_key,
    state_shardings,
)
from snapvideo_jax.step import init_state, make_denoise, sample_keys
from snapvideo_jax.types import Context

logger = logging.getLogger(__name__)

BATCH = 64
"""Clips that are made at once where nothing else is asked for."""
LEAST = {"num_samples": 1, "count": 1, "batch": 1, "fps": 0, "seed": 0}
"""Smallest values of options on the command line."""


@dataclasses.dataclass(frozen=True)
class Request:
    """What is sampled, in a chunk of samples of equal settings.

    Attributes:
      prompts: a caption for each sample; "" is unconditional.
      numbers: number of each sample under ``seed``; its noise depends on no other.
      seed: of the noise.
      guidance: weight ``g``; 0 is the plain conditional model (1 + g in other papers).
      fps: frame-rate the clips are conditioned on; 0 for images.
      resolution: height and width of the original that they are conditioned on.
    """

    prompts: Sequence[str]
    numbers: Sequence[int]
    seed: int
    guidance: float
    fps: float
    resolution: tuple[int, int]


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


class Generator:
    """A sampler of clips, compiled once for a batch size, with guidance and without.

    Args:
      experiment: gives model, diffusion, text encoder, and how it is guided.
      sampler: steps, solver, churn.
      mesh: whose devices the samples are divided over.
      guide: the guiding model, if there is one.

    Raises:
      ValueError: as `jit_generate`.
    """

    def __init__(
        self,
        experiment: "configs.Experiment",
        sampler: Sampler,
        mesh,
        guide: Guide | None = None,
    ):
        self._experiment = experiment
        self._mesh = mesh
        self._embed = experiment.text.on_devices(mesh)
        self._guide = guide
        self._generate = jit_generate(experiment, sampler, mesh, guide)

    def __call__(self, params: Any, request: Request) -> UInt8[np.ndarray, "b t h w c"]:
        """The clips of a request, in 0..255; all of them in every process."""
        count = len(request.prompts)
        filled = filled_up(count, self._mesh)
        pick = np.minimum(np.arange(filled), count - 1)
        text, mask = self._experiment.text.encode(list(request.prompts))
        interval = 1 / request.fps if request.fps else 0.0
        inputs = {
            "text": text[pick],
            "text_mask": mask[pick],
            "frame_interval": np.full(filled, interval, np.float32),
            "resolution": np.full((filled, 2), request.resolution, np.float32),
        }
        numbers = np.asarray(request.numbers, np.uint32)[pick]
        inputs, numbers = jax.device_put((inputs, numbers), batch_sharding(self._mesh))
        clips = self._generate(
            params,
            self._embed(inputs),
            numbers,
            put_key(request.seed, self._mesh),
            request.guidance,
            negative=self._negative(filled) if request.guidance else None,
            guide_params=self._guide.params if self._guide else None,
            guided=bool(request.guidance),
        )
        return on_host(clips)[:count]

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
    experiment: "configs.Experiment", sampler: Sampler, mesh, guide: Guide | None = None
):
    """`generate` of an experiment on a mesh, jitted; ``guided`` is static.

    Raises:
      ValueError: the network is an upsampler.
    """
    if experiment.model.is_upsampler:
        raise ValueError(
            "The run is of an upsampler, which enlarges clips and makes none from "
            "a prompt alone; use a first stage."
        )
    parts = dict(sampler=sampler, guidance=experiment.guidance, guide=guide)
    generated = functools.partial(
        generate, model=experiment.model, edm=experiment.diffusion, **parts
    )
    return jax.jit(
        laid_out(generated, mesh),
        static_argnames="guided",
        out_shardings=batch_sharding(mesh),
    )


def as_bytes(clips):
    """-1..1 to 0..255."""
    return jnp.clip(jnp.rint((clips + 1) * 127.5), 0, 255).astype(jnp.uint8)


def generate(
    params,
    inputs,
    numbers,
    key,
    weight,
    negative=None,
    guide_params=None,
    *,
    guided,
    model,
    edm: EDM,
    sampler,
    guidance: Guidance,
    guide: Guide | None = None,
    finish: Callable = as_bytes,
):
    """Noise to pixels, for one batch of samples; ``finish`` has the last word."""
    batch = numbers.shape[0]
    keys = sample_keys(key, numbers)
    start = initial_noise(
        keys, (model.frames, model.height, model.width, model.out_channels), edm
    )
    keep = jnp.zeros(batch, bool)
    context = Context(**inputs, drop_text=keep)
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
    clips, _ = sample(denoise, start, carry, keys, edm, sampler)
    return finish(clips)


def load(workdir: Path, ema: bool = True, profile: str | None = None):
    """A workdir's experiment, its parameters, their step, and a mesh of all devices.

    Args:
      workdir: of the run.
      ema: its average, not the raw weights.
      profile: folder of an average that `snapvideo ema` made, to be used in their
        place.

    Raises:
      ValueError: the folder holds no run, the run has no checkpoint yet, or there is no
        such average of it.
    """
    config = configs.of_workdir(workdir)
    distributed.keep_compiled(workdir)
    experiment = configs.build(config)
    mesh = make_mesh(configs.MeshConfig(), batch=jax.device_count())
    if profile:
        like = _placed_state(experiment, mesh)
        params, step = profile_of(Path(profile), like.params)
    else:
        params, step = _restored(workdir, experiment, mesh, ema)
    return experiment, params, step, mesh


def load_guide(experiment: "configs.Experiment", arguments, mesh) -> Guide | None:
    """The guiding model that the command line asks for, if it does.

    Raises:
      ValueError: as `guide_of`, or the checkpoint is not there.
    """
    if (found := guide_of(experiment, arguments)) is None:
        return None
    theirs, workdir, step = found
    params, _ = _restored(workdir, theirs, mesh, arguments.ema, step)
    return Guide(theirs.model, theirs.diffusion, params)


def _restored(workdir: Path, experiment, mesh, ema: bool, step: int | None = None):
    """Parameters of a workdir's checkpoint on a mesh, and its step."""
    like = _placed_state(experiment, mesh)
    checkpoints = Checkpoints(workdir)
    try:
        return checkpoints.restore_params(like, ema, step)
    finally:
        checkpoints.close()


def _placed_state(experiment, mesh):
    """Shapes of a state, with their places on a mesh."""
    shapes = abstract_state(experiment)
    return placed(nn.unbox(shapes), state_shardings(shapes, mesh))


def profile_of(folder: Path, like) -> tuple[Any, int]:
    """The parameters that `snapvideo ema` wrote to a folder, and their step.

    Args:
      folder: of one average.
      like: shapes and places of the parameters.

    Raises:
      ValueError: no average lies there, or one of another model does.
    """
    if not (folder / COMMITTED).is_file():
        raise ValueError(
            f"--ema_profile={folder} holds no average; snapvideo ema --workdir DIR "
            "--length 0.1 makes one and prints its folder."
        )
    about = ocp.checkpointables_metadata(folder.absolute()).custom_metadata
    try:
        loaded = ocp.load_checkpointables(folder.absolute(), {"params": like})
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"--ema_profile={folder} is not of the model of --workdir."
        ) from error
    return loaded["params"], about["step"]


def abstract_state(experiment: "configs.Experiment"):
    """Shapes of a state of an experiment, its parameters with their logical axes."""
    return jax.eval_shape(functools.partial(fresh_state, experiment))


def fresh_state(experiment: "configs.Experiment"):
    """The state that an experiment begins with, likewise boxed; to be jitted."""
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


def chunks(prompts: Sequence[str], batch: int, **settings) -> Iterator[Request]:
    """Requests of up to ``batch`` samples, numbered from 0 in the order of prompts."""
    for first in range(0, len(prompts), batch):
        part = prompts[first : first + batch]
        numbers = range(first, first + len(part))
        yield Request(prompts=part, numbers=numbers, **settings)


def run(arguments) -> None:
    """`snapvideo sample`."""
    with configs.user_errors(), distributed.processes(vars(arguments), arguments.out):
        check_least(arguments, LEAST)
        prompts = _prompts(arguments)
        media.check_formats(arguments.formats)
        loaded = load(Path(arguments.workdir), arguments.ema, arguments.ema_profile)
        write_clips(arguments, prompts, *loaded)


def write_clips(arguments, prompts, experiment, params, step, mesh) -> None:
    """Writes clips, a contact sheet, and how they were made; process 0 does.

    Args:
      arguments: of the command line.
      prompts: one for each clip.
      experiment, params, step, mesh: as from `load`.
    """
    out, sampler = Path(arguments.out), sampler_of(experiment, arguments)
    is_writer = jax.process_index() == 0
    settings = settings_of(experiment, arguments)
    experiment = guidance_of(experiment, arguments, settings["guidance"])
    guide = load_guide(experiment, arguments, mesh)
    generator = Generator(experiment, sampler, mesh, guide)
    began, clips = time.monotonic(), []
    requests = list(chunks(prompts, arguments.batch, **settings))
    for request in progress(requests, len(requests), name="batch", is_writer=is_writer):
        made = generator(params, request)
        if not is_writer:
            continue
        out.mkdir(parents=True, exist_ok=True)
        for number, prompt, clip in zip(
            request.numbers, request.prompts, made, strict=True
        ):
            stem = out / f"{number:05d}"
            media.write_clip(stem, clip, settings["fps"] or 1.0, arguments.formats)
            about = settings | {
                "prompt": prompt,
                "number": number,
                **about_guidance(experiment, arguments, settings["guidance"]),
                "sampler": dataclasses.asdict(sampler),
                "workdir": arguments.workdir,
                "step": step,
                "weights": weights_of(arguments),
                "version": __version__,
            }
            stem.with_suffix(".json").write_text(json.dumps(about, indent=2))
        clips.extend(made)
    if not is_writer:
        return
    write_sheet(out / "sheet", np.stack(clips), prompts, experiment.sheets)
    seconds = time.monotonic() - began
    logger.info("%d clips in %.1f s: %s", len(clips), seconds, out / "sheet.gif")


def write_sheet(stem: Path, clips, labels: Sequence[str], sheets, limit: int = 64):
    """A contact sheet of the first ``limit`` clips, as GIF and PNG, and its frames."""
    clips, labels = clips[:limit], list(labels)[:limit]
    columns = max(1, round(len(clips) ** 0.5))
    frames = media.contact_sheet(clips, columns, labels, scale=sheets.scale)
    media.write_gif(stem.with_suffix(".gif"), frames, sheets.fps or 1.0)
    media.write_png(stem.with_suffix(".png"), frames[len(frames) // 2][None])
    return frames


def sampler_of(experiment: "configs.Experiment", arguments) -> Sampler:
    """The experiment's sampler with what the command line changes."""
    changes = {
        name: value
        for name in ("steps", "solver", "churn")
        if (value := getattr(arguments, name)) is not None
    }
    return dataclasses.replace(experiment.sampler, **changes)


def settings_of(experiment: "configs.Experiment", arguments) -> dict[str, Any]:
    """What all requests of a command share: seed, guidance, frame-rate, resolution."""
    sheets = experiment.sheets
    return dict(
        seed=arguments.seed,
        guidance=sheets.guidance if arguments.guidance is None else arguments.guidance,
        fps=sheets.fps if arguments.fps is None else arguments.fps,
        resolution=resolution_of(experiment),
    )


def weights_of(arguments) -> str:
    """Which weights a command samples from: "ema", "raw", or an average's folder."""
    return arguments.ema_profile or ("ema" if arguments.ema else "raw")


def resolution_of(experiment: "configs.Experiment") -> tuple[int, int]:
    """The original resolution that samples are conditioned on."""
    asked = experiment.sheets.resolution
    return asked if any(asked) else (experiment.data.height, experiment.data.width)


def _prompts(arguments) -> list[str]:
    """The prompts of the command line and of --prompts, each ``num_samples`` times.

    Raises:
      ValueError: there are none, or the file cannot be read.
    """
    prompts = list(arguments.prompt or ())
    if arguments.prompts:
        prompts += read_prompts(Path(arguments.prompts))
    if not prompts:
        raise ValueError(
            'There is nothing to sample; give --prompt "..." or --prompts.'
        )
    return [prompt for prompt in prompts for _ in range(arguments.num_samples)]
