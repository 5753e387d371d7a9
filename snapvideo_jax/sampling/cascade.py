"""Cascades: small clips from captions, large clips from small ones (App. C.1).

The first stage fills the folder ``small`` without loss, the second enlarges the clips
of that folder or of another. So each stage resumes by itself, only one network is in
memory at a time, and the second stage alone gives the same clips as both together. The
noise of both stages depends on a sample's number; the second uses streams from STREAM.

Longer clips, as `snapvideo extend` writes them, are enlarged window by window: each
continues from the last enlarged frame, by reconstruction guidance (`long_video`).
"""

import dataclasses
import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from snapvideo_jax import config as configs
from snapvideo_jax.diffusion import Sampler
from snapvideo_jax.diffusion.windows import Window, windows
from snapvideo_jax.parallel import coordinator
from snapvideo_jax.sampling import clips as stage
from snapvideo_jax.sampling import loading
from snapvideo_jax.sampling.generator import Generator, Request, Samples, requests_of
from snapvideo_jax.sampling.guidance_options import guidance_of
from snapvideo_jax.sampling.long_video import in_windows
from snapvideo_jax.sampling.options import (
    SampleOptions,
    SamplerOptions,
    sampler_of,
    settings_of,
)
from snapvideo_jax.sampling.outputs import Output, check_clip, read_clip
from snapvideo_jax.text.encoder import refuse_long
from snapvideo_jax.training.run_folder import RunFolder

logger = logging.getLogger(__name__)

STREAM = 2**16
"""PRNG stream of the second stage in window 0; window ``i`` uses ``STREAM + i``."""


@dataclasses.dataclass(frozen=True)
class SmallClip:
    """A small clip in a folder.

    Attributes:
      stem: path without its suffix.
      prompt: its caption.
      fps: its frame rate; None if unknown.
      frames: their number; None for as many as the upsampler enlarges at once.
      about: how it was sampled.
    """

    stem: Path
    prompt: str
    fps: float | None
    frames: int | None
    about: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class SecondStage:
    """An upsampler and the settings it is called with.

    Attributes:
      workdir: of its run.
      options: of its sampler.
      experiment: of its run, with the guidance of ``options``.
      sampler: steps, solver.
      settings: of all requests; see `options.settings_of`.
      small_noise: standard deviation of the noise in the small clips, in -1..1.
    """

    workdir: Path
    options: SamplerOptions
    experiment: configs.Experiment
    sampler: Sampler
    settings: dict[str, Any]
    small_noise: float

    @property
    def small_shape(self) -> tuple[int, int, int, int]:
        """Shape ``t h w c`` of the clips that it enlarges."""
        return small_shape(self.experiment)


def sample_cascade(options: SampleOptions) -> Output:
    """Samples with both stages, or enlarges ``options.small_clips``.

    Returns:
      The folder of large clips; it is complete.

    Raises:
      ValueError: what is asked for makes no sense, before anything is compiled.
    """
    own = SamplerOptions(
        steps=options.cascade_steps,
        solver=options.cascade_solver,
        guidance=options.cascade_guidance,
        fps=options.fps,
        seed=options.seed,
        batch=options.cascade_batch or options.batch,
        ema=options.ema,
    )
    second = second_stage(Path(options.cascade), own, options.small_noise)
    if options.small_clips:
        return enlarge(second, Path(options.small_clips), options)
    first = configs.build(configs.of_workdir(Path(options.workdir)))
    check_stages(first, second.experiment, options.workdir, options.cascade)
    refuse_long(second.experiment.text, options.captions())
    folder = Path(options.out) / "small"
    formats = tuple(dict.fromkeys(("png", *options.formats)))
    stage.sample_clips(dataclasses.replace(options, out=folder, formats=formats))
    coordinator.barrier("small clips")
    return enlarge(second, folder, options)


def second_stage(
    workdir: Path, options: SamplerOptions, small_noise: float
) -> SecondStage:
    """A second stage; its weights are not loaded.

    Args:
      workdir: of the upsampler.
      options: of its sampler.
      small_noise: standard deviation of the noise in the small clips, in -1..1.

    Raises:
      ValueError: the run is not of an upsampler or has no checkpoint, or options are
        wrong.
    """
    experiment = upsampler_of(workdir)
    most = experiment.training.low_resolution_noise
    if not 0 <= small_noise <= most:
        raise ValueError(
            f"--small_noise={small_noise:g} is not in 0 to {most:g}, which the "
            "upsampler was trained with (training.low_resolution_noise)."
        )
    if RunFolder(workdir).latest_step() is None:
        raise ValueError(f"--cascade={workdir} has no checkpoint; train first.")
    settings = settings_of(experiment, options)
    return SecondStage(
        workdir,
        options,
        guidance_of(experiment, options, settings["guidance"]),
        sampler_of(experiment, options),
        settings,
        small_noise,
    )


def upsampler_of(workdir: Path) -> configs.Experiment:
    """The experiment of an upsampler's workdir.

    Raises:
      ValueError: the run is not of an upsampler.
    """
    experiment = configs.build(configs.of_workdir(workdir))
    if not experiment.model.is_upsampler:
        raise ValueError(
            f"--cascade={workdir} is a first stage, which reads no small clip; use the "
            "workdir of an upsampler."
        )
    return experiment


def check_stages(
    first: configs.Experiment,
    second: configs.Experiment,
    workdir: str | Path,
    cascade: str | Path,
) -> None:
    """Checks that a first stage samples clips of the size that the second enlarges.

    Args:
      first, second: their experiments.
      workdir, cascade: their workdirs, for the error.

    Raises:
      ValueError: it does not, or is an upsampler itself.
    """
    makes, wanted = stage.clip_shape(first.model), small_shape(second)
    if first.model.is_upsampler or makes != wanted:
        made, taken = (f"{t} frames of {w}x{h} px" for t, h, w, _ in (makes, wanted))
        also = " from smaller ones" if first.model.is_upsampler else ""
        raise ValueError(
            f"The stages do not match: --workdir={workdir} makes {made}{also}, and "
            f"--cascade={cascade} enlarges {taken} (training.low_resolution)."
        )


def small_shape(upsampler: configs.Experiment) -> tuple[int, int, int, int]:
    """Shape ``t h w c`` of the clips that an upsampler enlarges."""
    model = upsampler.model
    return (model.frames, *upsampler.training.low_resolution, model.out_channels)


def enlarge(second: SecondStage, folder: Path, options: SampleOptions) -> Output:
    """Enlarges those clips of a folder that ``options.out`` lacks.

    Raises:
      ValueError: the folder holds no clips, or clips of another size.
    """
    experiment, noise = second.experiment, second.small_noise
    small = small_clips(folder)
    refuse_long(experiment.text, [each.prompt for each in small.values()])
    settings = second.settings | {"fps": _fps(second, list(small.values()), folder)}
    plan = plan_of(second, small.values(), folder, settings["fps"], options)
    frames = plan[-1].frames[-1] + 1
    shape = (frames, *second.small_shape[1:])
    for each in small.values():
        check_clip(each.stem, shape)
    _, params, step, mesh = loading.load(second.workdir, second.options.ema)
    about = settings | stage.about_of(
        experiment,
        second.options,
        second.workdir,
        second.sampler,
        step,
        settings["guidance"],
    )
    about |= {"small_noise": noise}
    if len(plan) > 1:
        about["windows"] = len(plan)
    large = (frames, *stage.clip_shape(experiment.model)[1:])
    output = Output(
        options,
        {
            number: about
            | {"prompt": each.prompt, "number": number, "small_clip": each.about}
            for number, each in small.items()
        },
        large,
        settings["fps"],
        experiment.sheets,
    )
    batch = min(second.options.batch, len(small))
    generator = Generator(
        experiment,
        second.sampler,
        mesh,
        batch=batch,
        trajectory=options.save_trajectory,
    )
    prompts = {number: each.prompt for number, each in small.items()}
    settings |= {"stream": STREAM, "small_noise": noise}
    requests = requests_of(prompts, batch, output.missing, **settings)

    def samples(request: Request) -> Samples:
        clips = np.stack([read_clip(small[n].stem, shape) for n in request.numbers])
        request = dataclasses.replace(request, small=clips)
        if len(plan) == 1:
            return generator.samples(params, request)
        video = np.zeros((len(clips), *large), np.uint8)
        for _ in in_windows(generator, params, request, plan, video):
            pass
        return Samples(video)

    levels = stage.trajectory_levels(options, experiment, second.sampler)
    stage.fill(output, requests, samples, levels)
    return output


def plan_of(
    second: SecondStage,
    small: Iterable[SmallClip],
    folder: Path,
    fps: float,
    options: SampleOptions,
) -> list[Window]:
    """The windows of small clips, which are enlarged one after another.

    Raises:
      ValueError: clips have different numbers of frames or fewer than a window, or
        trajectories are to be saved of more than one window.
    """
    length = second.small_shape[0]
    counts = {each.frames or length for each in small}
    if len(counts) > 1:
        raise ValueError(
            f"{folder} has clips of {sorted(counts)} frames; enlarge those of one "
            "length at a time, each from a separate folder."
        )
    (frames,) = counts
    if frames < length:
        raise ValueError(
            f"{folder} has clips of {frames} frames; --cascade={second.workdir} "
            f"enlarges {length} or more; make longer ones."
        )
    if frames > length and options.save_trajectory:
        raise ValueError(
            f"--save_trajectory shows one clip of {length} frames, and those of "
            f"{folder} have {frames}; leave it out."
        )
    if frames == length:
        every = tuple(range(length))
        return [Window(fps, every, known=(), new=every)]
    plan = windows(frames, (1.0,), length)
    return [dataclasses.replace(window, fps=fps) for window in plan]


def small_clips(folder: Path) -> dict[int, SmallClip]:
    """The clips of a folder, by number.

    Raises:
      ValueError: there are none.
    """
    listed = folder / "captions.jsonl"
    if listed.is_file():
        lines = map(json.loads, listed.read_text(encoding="utf-8").splitlines())
        return {
            number: SmallClip(
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
            f"{folder} holds no clips; wanted NUMBER.json with NUMBER.png or .mp4, as "
            "snapvideo sample writes them, or captions.jsonl and its files."
        )
    clips = {}
    for path in found:
        saved = json.loads(path.read_text())
        clips[int(path.stem)] = SmallClip(
            path.with_suffix(""),
            saved["prompt"],
            saved["fps"],
            saved.get("frames"),
            {name: saved[name] for name in ("workdir", "step", "seed")},
        )
    return clips


def _fps(second: SecondStage, small: Sequence[SmallClip], folder: Path) -> float:
    """The frame rate of the options, else that of the small clips.

    Raises:
      ValueError: they have several.
    """
    if second.options.fps is not None:
        return second.options.fps
    rates = {each.fps for each in small}
    if len(rates) > 1:
        raise ValueError(
            f"{folder} has clips of {sorted(rates, key=str)} fps; give --fps."
        )
    (fps,) = rates
    return second.experiment.sheets.fps if fps is None else fps
