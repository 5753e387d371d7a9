"""Videos of any length, from captions and known frames.

A video is sampled window by window as `diffusion.windows` plans it, known frames by
reconstruction guidance. They come back unchanged: a difference of 0 in 0..255. Windows
are saved in ``parts`` until their video is complete, so that an interrupted job
resumes at the window where it stopped.
"""

import dataclasses
import io
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8

from snapvideo_jax import config as configs
from snapvideo_jax.diffusion import Reconstruction
from snapvideo_jax.diffusion.windows import Window, check_rates, windows
from snapvideo_jax.io.files import write_atomically
from snapvideo_jax.io.progress import progress
from snapvideo_jax.sampling.generator import Request, requests_of
from snapvideo_jax.sampling.inputs import digest, read_frames
from snapvideo_jax.sampling.loading import Setup
from snapvideo_jax.sampling.options import ExtendOptions
from snapvideo_jax.sampling.outputs import SHEET_CLIPS, Output

TIMES = 4
"""Ratio of the two frame rates where none are given [C]."""


def extend(options: ExtendOptions) -> Output:
    """Samples the videos that ``options.out`` lacks; process 0 writes them.

    Returns:
      The folder; it is complete.

    Raises:
      ValueError: what is asked for makes no sense, before anything is compiled.
    """
    prompts = options.captions()
    setup = Setup.of(options.workdir, options, prompts)
    experiment = setup.experiment
    if experiment.model.is_upsampler:
        raise ValueError(
            f"--workdir={options.workdir} is an upsampler; use a first stage."
        )
    rates = rates_of(options, experiment, setup.settings["fps"])
    settings = setup.settings | {"fps": rates[-1]}
    known = known_frames(options, experiment, rates[-1])
    plan = windows(
        options.frames, rates, experiment.model.frames, known, options.overlap
    )
    if not plan:
        raise ValueError("All frames are known; there is nothing to sample.")
    reconstruction = Reconstruction(
        options.reconstruction, options.rule, options.products
    )
    run = setup.load()
    about = (
        run.about()
        | settings
        | {
            "frames": options.frames,
            "rates": sorted({window.fps for window in plan}),
            "overlap": options.overlap,
            "clips": len(plan),
            "known": {
                str(number): digest(known[number].tobytes()) for number in sorted(known)
            },
            "reconstruction": dataclasses.asdict(reconstruction),
        }
    )
    abouts = {
        number: about | {"prompt": text, "number": number}
        for number, text in enumerate(prompts)
    }
    shape = (options.frames, *setup.clip_shape[1:])
    output = Output(options, abouts, shape, settings["fps"], experiment.sheets)
    batch = min(options.batch, len(prompts))
    generator = run.generator(batch=batch, reconstruction=reconstruction)
    requests = requests_of(prompts, batch, output.missing, **settings)
    is_writer, shown = jax.process_index() == 0, {}

    def sampled() -> Iterator[None]:
        for request in requests:
            these = {number: abouts[number] for number in request.numbers}
            parts = Parts(output.folder / "parts", these)
            video = with_known(experiment.model, plan, known, len(request.numbers))
            yield from in_windows(generator, run.params, request, plan, video, parts)
            if not is_writer:
                continue
            whole = video[:, : options.frames]
            for number, clip in zip(request.numbers, whole, strict=True):
                output.write(number, clip)
                if len(shown) < SHEET_CLIPS:
                    shown[number] = clip
            parts.remove()

    total = len(requests) * len(plan)
    for _ in progress(sampled(), total, name="clip", is_writer=is_writer):
        pass
    if is_writer:
        output.write_sheet(shown)
    return output


def rates_of(
    options: ExtendOptions, experiment: configs.Experiment, fps: float
) -> tuple[float, ...]:
    """The rising frame rates at which videos are sampled.

    Raises:
      ValueError: as `check_rates`, or one is lower than any of training.
    """
    length, least = experiment.model.frames, experiment.data.min_fps
    if options.rates is None:
        most = min(TIMES, length - 1, int(fps / least))
        is_long = options.frames > length and most > 1
        rates = (fps / most, fps) if is_long else (fps,)
    else:
        rates = tuple(options.rates)
    check_rates(rates, length)
    if rates[0] < least:
        raise ValueError(
            f"--rates: {rates[0]:g} is below {least:g} fps, the lowest that this run "
            "was trained at (data.min_fps)."
        )
    return rates


def known_frames(
    options: ExtendOptions, experiment: configs.Experiment, fps: float
) -> dict[int, UInt8[np.ndarray, "h w c"]]:
    """The frames of --image and --known by number, in the network's size.

    Raises:
      ValueError: a number is out of range or given twice, or a file is not a picture
        or video.
    """
    model, found = experiment.model, {}
    first = [(0, options.image)] if options.image else []
    for start, file in (*first, *options.known):
        frames = read_frames(Path(file), (model.height, model.width), fps, "--known")
        for number, frame in enumerate(frames, start):
            if not 0 <= number < options.frames:
                raise ValueError(
                    f"--known={start}={file}: frame {number} is out of range; the "
                    f"video has frames 0 to {options.frames - 1} (--frames)."
                )
            if number in found:
                raise ValueError(
                    f"--known={start}={file}: frame {number} is known already."
                )
            found[number] = frame
    return found


def with_known(
    model, plan: Sequence[Window], known: Mapping[int, np.ndarray], count: int
) -> UInt8[np.ndarray, "b t h w c"]:
    """``count`` videos, black except for the known frames."""
    last = max((*known, *(window.frames[-1] for window in plan)))
    shape = (count, last + 1, model.height, model.width, model.out_channels)
    video = np.zeros(shape, np.uint8)
    for number, frame in known.items():
        video[:, number] = frame
    return video


def in_windows(
    generator: Callable[..., UInt8[np.ndarray, "b t h w c"]],
    params: Any,
    request: Request,
    plan: Sequence[Window],
    video: UInt8[np.ndarray, "b t h w c"],
    parts: "Parts | None" = None,
) -> Iterator[None]:
    """Samples videos window by window into ``video``, and yields after each window.

    Args:
      generator: a `Generator`.
      params: of its network.
      request: for the videos; window ``i`` uses the PRNG stream ``stream + i``.
      plan: the windows, in order.
      video: known frames are set, all others 0.
      parts: windows that are saved; those that are there already are read.
    """
    done = parts.done(plan) if parts else 0
    for index, window in enumerate(plan):
        if index < done:
            frames = parts.read(index)
        else:
            clips = generator(params, window_request(request, window, index, video))
            frames = clips[:, np.isin(window.frames, window.new)]
            if parts:
                parts.write(index, frames)
        video[:, list(window.new)] = frames
        yield


def window_request(
    request: Request,
    window: Window,
    index: int,
    video: UInt8[np.ndarray, "b t h w c"],
) -> Request:
    """The request for window ``index`` of some videos.

    Args:
      request: for the videos.
      window: their frames.
      index: of the window; selects the stream of its noise.
      video: all frames so far, others 0.
    """
    frames = list(window.frames)
    changes = {"fps": window.fps, "stream": request.stream + index}
    if request.small is not None:
        changes["small"] = request.small[:, frames]
    if window.known:
        changes["known"] = video[:, frames]
        changes["is_known"] = np.isin(frames, window.known)
    return dataclasses.replace(request, **changes)


class Parts:
    """Saved windows of incomplete videos, in a folder for each video.

    Args:
      folder: of all videos.
      about: how each video is sampled, by number; its digest is part of the folder's
        name, so windows with other settings are ignored.
    """

    def __init__(self, folder: Path, about: Mapping[int, Mapping[str, Any]]):
        self._folder = folder
        self._folders = [
            folder / f"{number:05d}-{digest(json.dumps(each).encode())}"
            for number, each in about.items()
        ]

    def _paths(self, index: int) -> list[Path]:
        return [folder / f"{index:05d}.npy" for folder in self._folders]

    def done(self, plan: Sequence[Window]) -> int:
        """How many windows, from the first, all videos have."""
        for index in range(len(plan)):
            if not all(path.is_file() for path in self._paths(index)):
                return index
        return len(plan)

    def read(self, index: int) -> UInt8[np.ndarray, "b t h w c"]:
        """The sampled frames of a window."""
        return np.stack([np.load(path) for path in self._paths(index)])

    def write(self, index: int, sampled: UInt8[np.ndarray, "b t h w c"]) -> None:
        """Saves the sampled frames of a window; process 0 does."""
        if jax.process_index() == 0:
            for path, frames in zip(self._paths(index), sampled, strict=True):
                buffer = io.BytesIO()
                np.save(buffer, frames)
                write_atomically(path, buffer.getvalue())

    def remove(self) -> None:
        """Deletes the windows of these videos."""
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)
        if self._folder.is_dir() and not any(self._folder.iterdir()):
            self._folder.rmdir()
