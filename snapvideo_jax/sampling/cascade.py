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
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from snapvideo_jax import config as configs
from snapvideo_jax.diffusion.windows import Window, windows
from snapvideo_jax.io.captions import CAPTIONS, read_entries
from snapvideo_jax.parallel import coordinator
from snapvideo_jax.sampling.clips import fill, sample_clips, trajectory_levels
from snapvideo_jax.sampling.generator import Request, Samples, requests_of
from snapvideo_jax.sampling.loading import Setup, clip_shape
from snapvideo_jax.sampling.long_video import in_windows
from snapvideo_jax.sampling.options import SampleOptions, SamplerOptions
from snapvideo_jax.sampling.outputs import Output, check_clip, read_clip
from snapvideo_jax.text.encoder import refuse_long
from snapvideo_jax.training.run_folder import RunFolder

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
    second = second_stage(options.cascade, own, options.small_noise)
    if options.small_clips:
        return enlarge(second, Path(options.small_clips), options)
    first = Setup.of(options.workdir, options).experiment
    check_stages(first, second.experiment, options.workdir, options.cascade)
    refuse_long(second.experiment.text, options.captions())
    folder = Path(options.out) / "small"
    formats = tuple(dict.fromkeys(("png", *options.formats)))
    sample_clips(dataclasses.replace(options, out=folder, formats=formats))
    coordinator.barrier("small clips")
    return enlarge(second, folder, options)


def second_stage(
    workdir: str | Path, options: SamplerOptions, small_noise: float
) -> Setup:
    """The setup of a second stage.

    Args:
      workdir: of the upsampler.
      options: of its sampler.
      small_noise: standard deviation of the noise in the small clips, in -1..1.

    Raises:
      ValueError: the run is not of an upsampler or has no checkpoint, or options are
        wrong.
    """
    experiment = upsampler_of(Path(workdir))
    most = experiment.training.low_resolution_noise
    if not 0 <= small_noise <= most:
        raise ValueError(
            f"--small_noise={small_noise:g} is not in 0 to {most:g}, which the "
            "upsampler was trained with (training.low_resolution_noise)."
        )
    if RunFolder(Path(workdir)).latest_step() is None:
        raise ValueError(f"--cascade={workdir} has no checkpoint; train first.")
    return Setup.of(workdir, options)


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
    makes, wanted = clip_shape(first.model), small_shape(second)
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


def enlarge(second: Setup, folder: Path, options: SampleOptions) -> Output:
    """Enlarges those clips of a folder that ``options.out`` lacks.

    Args:
      second: an upsampler.
      folder: of the small clips.
      options: give the output folder, and the noise that is added to the small clips.

    Raises:
      ValueError: the folder holds no clips, or clips of another size.
    """
    small = small_clips(folder)
    prompts = {number: each.prompt for number, each in small.items()}
    refuse_long(second.experiment.text, list(prompts.values()))
    settings = second.settings | {"fps": _fps(second, list(small.values()), folder)}
    plan = plan_of(second, small.values(), folder, settings["fps"], options)
    frames = plan[-1].frames[-1] + 1
    shape = (frames, *small_shape(second.experiment)[1:])
    for each in small.values():
        check_clip(each.stem, shape)
    run = second.load()
    about = settings | run.about() | {"small_noise": options.small_noise}
    if len(plan) > 1:
        about["windows"] = len(plan)
    large = (frames, *second.clip_shape[1:])
    output = Output(
        options,
        {
            number: about
            | {"prompt": each.prompt, "number": number, "small_clip": each.about}
            for number, each in small.items()
        },
        large,
        settings["fps"],
        second.experiment.sheets,
    )
    batch = min(second.options.batch, len(small))
    generator = run.generator(batch=batch, trajectory=options.save_trajectory)
    settings |= {"stream": STREAM, "small_noise": options.small_noise}
    requests = requests_of(prompts, batch, output.missing, **settings)

    def samples(request: Request) -> Samples:
        clips = np.stack([read_clip(small[n].stem, shape) for n in request.numbers])
        request = dataclasses.replace(request, small=clips)
        if len(plan) == 1:
            return generator.samples(run.params, request)
        video = np.zeros((len(clips), *large), np.uint8)
        for _ in in_windows(generator, run.params, request, plan, video):
            pass
        return Samples(video)

    fill(output, requests, samples, trajectory_levels(options, second))
    return output


def plan_of(
    second: Setup,
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
    length = small_shape(second.experiment)[0]
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
      ValueError: there are none, or captions.jsonl cannot be read.
    """
    listed = folder / CAPTIONS
    if listed.is_file():
        return {
            number: SmallClip(
                (folder / entry.file).with_suffix(""),
                entry.caption,
                None,
                None,
                {"file": entry.file},
            )
            for number, entry in enumerate(read_entries(listed, require=("file",)))
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


def _fps(second: Setup, small: Sequence[SmallClip], folder: Path) -> float:
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
