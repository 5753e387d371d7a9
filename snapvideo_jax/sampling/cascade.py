"""Cascade sampling: small clips from captions, large ones from small ones (App. C.1).

The first stage fills the folder ``small``, without loss; the second enlarges what is
in a folder, be it that one or another. So either stage goes on where it was stopped,
only one network is in memory at a time, and both stages alone make what they make
together. The noise of both is that of a sample's number, in streams of its own.

Longer clips, as `snapvideo extend` makes them, are enlarged window by window: each goes
on from the last frame that was enlarged, which it knows (`diffusion.hierarchy`).
"""

import argparse
import dataclasses
import functools
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from snapvideo_jax import config as configs
from snapvideo_jax.diffusion import Sampler
from snapvideo_jax.diffusion.windows import Window, windows
from snapvideo_jax.parallel import coordinator
from snapvideo_jax.sampling import clips as stage
from snapvideo_jax.sampling import loading, options
from snapvideo_jax.sampling.generator import Generator, Request, Samples, requests_of
from snapvideo_jax.sampling.guidance_options import guidance_of
from snapvideo_jax.sampling.outputs import Output, check_clip, read_clip
from snapvideo_jax.text.encoder import refuse_long
from snapvideo_jax.training.checkpoints.checkpoints import Checkpoints

logger = logging.getLogger(__name__)

STREAM = 2**16
"""Of the noise of the second stage, in its first window; those that follow, follow."""
OF_FIRST_STAGE = (
    *("churn", "ema_profile", "oscillate", "guidance_interval", "threshold"),
    *("negative_prompt", "autoguide", "autoguidance"),
)
"""Options that the second stage takes from its config."""


@dataclasses.dataclass(frozen=True)
class Small:
    """A small clip in a folder.

    Attributes:
      stem: path without its ending.
      prompt: what it shows.
      fps: its frame-rate; None where nothing tells.
      frames: how many it has; None for as many as the upsampler makes at once.
      about: how it was made.
    """

    stem: Path
    prompt: str
    fps: float | None
    frames: int | None
    about: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Second:
    """The second stage as it was asked for.

    Attributes:
      arguments: its own, named as those of a first stage.
      experiment: of the upsampler, guided as asked.
      sampler: steps, solver.
      settings: seed, guidance, frame-rate (None if not told) and resolution.
    """

    arguments: argparse.Namespace
    experiment: Any
    sampler: Sampler
    settings: dict[str, Any]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return enlarged_shape(self.experiment)


def sample(arguments) -> None:
    """`snapvideo sample --cascade`: both stages, or the second alone.

    Raises:
      ValueError: what is asked for makes no sense, before anything is compiled.
    """
    second = second_stage(arguments)
    if arguments.small_clips:
        given = ("workdir", "prompt", "prompts", "from_clip", "strength")
        if any(getattr(arguments, name) is not None for name in given):
            raise ValueError(
                "--small_clips are enlarged as they are; leave out --workdir, prompts "
                "and --from_clip, or --small_clips."
            )
        enlarge(second, Path(arguments.small_clips))
        return
    if not arguments.workdir:
        raise ValueError(
            "--cascade is the second stage; give --workdir of a first one, or "
            "--small_clips that there are already."
        )
    prompts = options.prompts_of(arguments)
    first_stage = configs.build(configs.of_workdir(Path(arguments.workdir)))
    check_stages(first_stage, second.experiment, arguments)
    refuse_long(second.experiment.text, prompts)
    folder = Path(arguments.out) / "small"
    formats = tuple(dict.fromkeys(("png", *arguments.formats)))
    changed = {"out": str(folder), "formats": formats}
    first = argparse.Namespace(**vars(arguments) | changed)
    loaded = loading.load(Path(first.workdir), first.ema, first.ema_profile)
    stage.write_clips(first, prompts, *loaded)
    del loaded  # its parameters make room for those of the second stage
    coordinator.barrier("small clips")
    enlarge(second, folder)


def second_stage(arguments) -> Second:
    """What is asked of the second stage; nothing is loaded.

    Raises:
      ValueError: --cascade is no upsampler with a checkpoint, or options of it are
        wrong.
    """
    if not arguments.cascade:
        raise ValueError("--small_clips need --cascade, the upsampler's workdir.")
    changed = dict.fromkeys(OF_FIRST_STAGE) | {
        "workdir": arguments.cascade,
        "steps": arguments.cascade_steps,
        "solver": arguments.cascade_solver,
        "guidance": arguments.cascade_guidance,
        "batch": arguments.cascade_batch or arguments.batch,
    }
    own = argparse.Namespace(**vars(arguments) | changed)
    workdir = Path(own.workdir)
    experiment = upsampler_of(workdir)
    most = experiment.training.low_resolution_noise
    if not 0 <= own.small_noise <= most:
        raise ValueError(
            f"--small_noise={own.small_noise:g} is not in 0 to {most:g}, which the "
            "upsampler was trained with (training.low_resolution_noise)."
        )
    checkpoints = Checkpoints(workdir)
    checkpoints.close()
    if checkpoints.latest is None:
        raise ValueError(f"--cascade={workdir} has no checkpoint; train first.")
    settings = options.settings_of(experiment, own)
    return Second(
        arguments=own,
        experiment=guidance_of(experiment, own, settings["guidance"]),
        sampler=options.sampler_of(experiment, own),
        settings=settings | {"fps": arguments.fps},
    )


def upsampler_of(workdir: Path) -> configs.Experiment:
    """What the second stage's workdir says.

    Raises:
      ValueError: it is no upsampler.
    """
    experiment = configs.build(configs.of_workdir(workdir))
    if not experiment.model.is_upsampler:
        raise ValueError(
            f"--cascade={workdir} is a first stage, which reads no small clip; use the "
            "workdir of an upsampler."
        )
    return experiment


def check_stages(
    first: configs.Experiment, second: configs.Experiment, arguments: argparse.Namespace
) -> None:
    """That a first stage makes what the second enlarges.

    Raises:
      ValueError: it does not, or makes nothing by itself; names --workdir, --cascade.
    """
    makes, wanted = stage.clip_shape(first.model), enlarged_shape(second)
    if first.model.is_upsampler or makes != wanted:
        made, taken = (f"{t} frames of {w}x{h} px" for t, h, w, _ in (makes, wanted))
        also = " from smaller ones" if first.model.is_upsampler else ""
        raise ValueError(
            f"The stages do not match: --workdir={arguments.workdir} makes {made}"
            f"{also}, and --cascade={arguments.cascade} enlarges {taken} "
            "(training.low_resolution)."
        )


def enlarged_shape(upsampler: configs.Experiment) -> tuple[int, int, int, int]:
    """Of the clips that an upsampler enlarges, ``t h w c``."""
    model = upsampler.model
    return (model.frames, *upsampler.training.low_resolution, model.out_channels)


def enlarge(second: Second, folder: Path) -> None:
    """Enlarges the clips of a folder; what --out has already is not made again.

    Raises:
      ValueError: the folder holds no clips, or others than the upsampler was made for.
    """
    arguments, experiment = second.arguments, second.experiment
    small = small_clips(folder)
    refuse_long(experiment.text, [each.prompt for each in small.values()])
    plan = plan_of(second, small.values(), folder)
    shape = (plan[-1].frames[-1] + 1, *second.shape[1:])
    for each in small.values():
        check_clip(each.stem, shape)
    settings = second.settings | {"fps": _fps(second, list(small.values()), folder)}
    _, params, step, mesh = loading.load(Path(arguments.workdir), arguments.ema)
    about = stage.about_of(experiment, arguments, second.sampler, step, settings)
    about |= settings | {"small_noise": arguments.small_noise}
    if len(plan) > 1:
        about["windows"] = len(plan)
    output = Output(
        Path(arguments.out),
        {
            number: about
            | {"prompt": each.prompt, "number": number, "small_clip": each.about}
            for number, each in small.items()
        },
        arguments.formats,
        settings["fps"],
        arguments.overwrite,
    )
    batch = min(arguments.batch, len(small))
    kept = arguments.save_trajectory
    generator = Generator(
        experiment, second.sampler, mesh, batch=batch, trajectory=kept
    )
    told = settings | {"stream": STREAM, "small_noise": arguments.small_noise}
    prompts = {number: each.prompt for number, each in small.items()}
    requests = requests_of(prompts, batch, output.missing, **told)

    def make(request: Request):
        clips = [read_clip(small[n].stem, shape) for n in request.numbers]
        request = dataclasses.replace(request, small=np.stack(clips))
        return by_window(functools.partial(generator.samples, params), request, plan)

    levels = stage.strip_levels(arguments, experiment, second.sampler)
    stage.fill(output, requests, make, experiment, levels, shape[0])


def plan_of(second: Second, small: Iterable[Small], folder: Path) -> list[Window]:
    """The windows of small clips that are enlarged one after another.

    Raises:
      ValueError: clips have different numbers of frames, or fewer than a window, or
        what was asked for is of one window only.
    """
    length = second.shape[0]
    told = {each.frames or length for each in small}
    if len(told) > 1:
        raise ValueError(
            f"{folder} has clips of {sorted(told)} frames; enlarge those of one length "
            "at a time, each from a folder of its own."
        )
    (frames,) = told
    if frames < length:
        raise ValueError(
            f"{folder} has clips of {frames} frames; --cascade="
            f"{second.arguments.workdir} enlarges {length} or more; make longer ones."
        )
    if frames > length and second.arguments.save_trajectory:
        raise ValueError(
            f"--save_trajectory shows one clip of {length} frames, and those of "
            f"{folder} have {frames}; leave it out."
        )
    if frames == length:
        every = tuple(range(length))
        return [Window(1.0, every, known=(), made=every)]
    return windows(frames, (1.0,), length)


def by_window(
    make: Callable[[Request], Samples], request: Request, plan: Sequence[Window]
) -> Samples:
    """Large clips, made window by window.

    Args:
      make: of `Generator`, for clips of a window's length.
      request: with small clips of all frames.
      plan: the windows.
    """
    if len(plan) == 1:
        return make(request)
    clips = None
    for place, window in enumerate(plan):
        frames = list(window.frames)
        part = dataclasses.replace(
            request, small=request.small[:, frames], stream=request.stream + place
        )
        if clips is not None:
            is_known = np.isin(frames, window.known)
            part = dataclasses.replace(part, known=clips[:, frames], is_known=is_known)
        made = make(part).clips
        if clips is None:
            shape = (len(made), request.small.shape[1], *made.shape[2:])
            clips = np.zeros(shape, np.uint8)
        clips[:, list(window.new)] = made[:, np.isin(frames, window.new)]
    return Samples(clips)


def small_clips(folder: Path) -> dict[int, Small]:
    """The clips of a folder, by number.

    Raises:
      ValueError: there are none.
    """
    listed = folder / "captions.jsonl"
    if listed.is_file():
        lines = map(json.loads, listed.read_text(encoding="utf-8").splitlines())
        return {
            number: Small(
                (folder / line["file"]).with_suffix(""),
                line.get("caption", ""),
                None,
                None,
                {"file": line["file"]},
            )
            for number, line in enumerate(lines)
        }
    found = sorted(folder.glob("[0-9]" * 5 + "*.json"))
    if not found:
        raise ValueError(
            f"{folder} holds no clips; wanted NUMBER.json beside NUMBER.png or .mp4, "
            "as snapvideo sample writes them, or captions.jsonl and its files."
        )
    clips = {}
    for path in found:
        kept = json.loads(path.read_text())
        about = {name: kept[name] for name in ("workdir", "step", "seed")}
        clips[int(path.stem)] = Small(
            path.with_suffix(""),
            kept["prompt"],
            kept["fps"],
            kept.get("frames"),
            about,
        )
    return clips


def _fps(second: Second, small: Sequence[Small], folder: Path) -> float:
    """The frame-rate of small clips, as asked for or as they tell.

    Raises:
      ValueError: they are of several.
    """
    if second.settings["fps"] is not None:
        return second.settings["fps"]
    told = {each.fps for each in small}
    if len(told) > 1:
        raise ValueError(
            f"{folder} has clips of {sorted(told, key=str)} fps; give --fps."
        )
    (fps,) = told
    return second.experiment.sheets.fps if fps is None else fps
