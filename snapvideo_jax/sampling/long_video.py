"""The verb `snapvideo extend`: videos of any length, from captions and known frames.

A video is made clip by clip as `diffusion.hierarchy` says, known frames by
reconstruction guidance. They come back as they are: a difference of 0 in 0..255. Every
clip is kept in ``parts`` until its video is whole, so a job goes on where it stopped.
"""

import dataclasses
import io
import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from jaxtyping import UInt8

from snapvideo_jax.diffusion import Reconstruction
from snapvideo_jax.diffusion.windows import Window, check_rates
from snapvideo_jax.io.files import write_whole
from snapvideo_jax.io.options import numbers
from snapvideo_jax.io.progress import progress
from snapvideo_jax.sampling import clips as sample
from snapvideo_jax.sampling import loading, options
from snapvideo_jax.sampling.generator import Generator, Request, requests_of
from snapvideo_jax.sampling.guidance_options import guidance_of
from snapvideo_jax.sampling.inputs import digest, read_frames
from snapvideo_jax.sampling.outputs import SHEET_CLIPS, Output

logger = logging.getLogger(__name__)

TIMES = 4
"""The higher rate by the lower one, where no rates are given [C]."""


def rates_of(arguments, experiment, fps: float) -> tuple[float, ...]:
    """The frame-rates of the hierarchy, rising.

    Raises:
      ValueError: as `check_rates`, or one is lower than any that was trained.
    """
    length, least = experiment.model.frames, experiment.data.min_fps
    if arguments.rates is None:
        most = min(TIMES, length - 1, int(fps / least))
        is_long = arguments.frames > length and most > 1
        rates = (fps / most, fps) if is_long else (fps,)
    else:
        try:
            rates = numbers(arguments.rates)
        except ValueError:
            raise ValueError(
                f"--rates={arguments.rates} are not numbers with commas between, as "
                "6,24."
            ) from None
    check_rates(rates, length)
    if rates[0] < least:
        raise ValueError(
            f"--rates: {rates[0]:g} is below {least:g} fps, the lowest that this run "
            "was trained at (data.min_fps)."
        )
    return rates


def known_frames(arguments, experiment, fps: float) -> dict[int, np.ndarray]:
    """Frames that --image and --known give, by number, in the network's size.

    Raises:
      ValueError: a number is out of range or given twice, or a file is no picture.
    """
    model, found = experiment.model, {}
    asked = [f"0={arguments.image}"] if arguments.image else []
    for text in (*asked, *(arguments.known or ())):
        number, _, file = text.partition("=")
        if not number.isdecimal() or not file:
            raise ValueError(
                f"--known={text} is not a frame's number and a file, as 0=first.png."
            )
        for place, frame in enumerate(
            read_frames(Path(file), (model.height, model.width), fps, "--known"),
            int(number),
        ):
            if place >= arguments.frames:
                raise ValueError(
                    f"--known={text}: frame {place} is out of range; the video has "
                    f"frames 0 to {arguments.frames - 1} (--frames)."
                )
            if place in found:
                raise ValueError(f"--known={text}: frame {place} is known already.")
            found[place] = frame
    return found


def extend(arguments, prompts, plan: Sequence[Window], known, settings) -> None:
    """Makes the videos that --out lacks.

    Args:
      arguments: of the command line.
      prompts: one for each video.
      plan: its clips, in order.
      known: frames that are given, by number.
      settings: as of `sample.settings_of`.
    """
    reconstruction = Reconstruction(
        arguments.reconstruction, arguments.rule, arguments.products
    )
    loaded = loading.load(Path(arguments.workdir), arguments.ema, arguments.ema_profile)
    experiment, params, step, mesh = loaded
    sampler = options.sampler_of(experiment, arguments)
    experiment = guidance_of(experiment, arguments, settings["guidance"])
    guide = loading.load_guide(experiment, arguments, mesh)
    about = sample.about_of(experiment, arguments, sampler, step, settings) | settings
    about |= {
        "frames": arguments.frames,
        "rates": sorted({window.fps for window in plan}),
        "overlap": arguments.overlap,
        "clips": len(plan),
        "known": {
            str(number): digest(known[number].tobytes()) for number in sorted(known)
        },
        "reconstruction": dataclasses.asdict(reconstruction),
    }
    abouts = {
        number: about | {"prompt": text, "number": number}
        for number, text in enumerate(prompts)
    }
    out = Path(arguments.out)
    output = Output(
        out, abouts, arguments.formats, settings["fps"], arguments.overwrite
    )
    batch = min(arguments.batch, len(prompts))
    generator = Generator(
        experiment, sampler, mesh, guide, batch=batch, reconstruction=reconstruction
    )
    requests = requests_of(prompts, batch, output.missing, **settings)
    is_writer, shown = jax.process_index() == 0, {}
    total = len(requests) * len(plan)
    todo = ((request, place) for request in requests for place in range(len(plan)))
    for request, place in progress(todo, total, name="clip", is_writer=is_writer):
        if place == 0:
            parts = Parts(out / "parts", {n: abouts[n] for n in request.numbers})
            video = begun(experiment.model, plan, known, len(request.numbers))
            done = parts.done(plan)
        window = plan[place]
        if place < done:
            made = parts.read(place)
        else:
            made = made_in(generator, params, request, window, place, video)
            parts.write(place, made, is_writer)
        video[:, list(window.new)] = made
        if place == len(plan) - 1 and is_writer:
            whole = video[:, : arguments.frames]
            for number, clip in zip(request.numbers, whole, strict=True):
                output.write(number, clip)
                if len(shown) < SHEET_CLIPS:
                    shown[number] = clip
            parts.remove()
    if is_writer:
        shape = (arguments.frames, *sample.clip_shape(experiment.model)[1:])
        output.write_sheet(shown, shape, experiment.sheets)


def begun(model, plan, known, count: int) -> UInt8[np.ndarray, "b t h w c"]:
    """Videos of which only the frames that are given are there."""
    last = max((*known, *(window.frames[-1] for window in plan)))
    shape = (count, last + 1, model.height, model.width, model.out_channels)
    video = np.zeros(shape, np.uint8)
    for number, frame in known.items():
        video[:, number] = frame
    return video


def made_in(
    generator: Generator, params, request: Request, window: Window, place: int, video
) -> UInt8[np.ndarray, "b t h w c"]:
    """The frames that one clip adds to some videos; the rest as of `asked`."""
    clips = generator(params, asked(request, window, place, video))
    return clips[:, [window.frames.index(number) for number in window.new]]


def asked(request: Request, window: Window, place: int, video) -> Request:
    """The request for one clip of some videos.

    Args:
      request: of the videos.
      window: the clip.
      place: of the clip in its video; its noise is a stream of its own.
      video: what there is of the videos.
    """
    request = dataclasses.replace(request, fps=window.fps, stream=place)
    if not window.known:
        return request
    is_known = np.array([number in window.known for number in window.frames])
    clips = np.where(is_known[:, None, None, None], video[:, list(window.frames)], 0)
    return dataclasses.replace(request, known=clips.astype(np.uint8), is_known=is_known)


class Parts:
    """The clips of videos that are not whole yet, each video in a folder of its own.

    Args:
      folder: of all of them.
      about: how each video is made, by number; what was made in another way is passed
        over.
    """

    def __init__(self, folder: Path, about):
        self._folder = folder
        self._folders = [
            folder / f"{number:05d}-{digest(json.dumps(each).encode())}"
            for number, each in about.items()
        ]

    def _paths(self, place: int) -> list[Path]:
        return [folder / f"{place:05d}.npy" for folder in self._folders]

    def done(self, plan: Sequence[Window]) -> int:
        """Clips, from the first, that all videos have."""
        for place in range(len(plan)):
            if not all(path.is_file() for path in self._paths(place)):
                return place
        return len(plan)

    def read(self, place: int) -> UInt8[np.ndarray, "b t h w c"]:
        return np.stack([np.load(path) for path in self._paths(place)])

    def write(self, place: int, made, is_writer: bool) -> None:
        for path, frames in zip(self._paths(place), made, strict=True):
            if is_writer:
                buffer = io.BytesIO()
                np.save(buffer, frames)
                write_whole(path, buffer.getvalue())

    def remove(self) -> None:
        """The videos are whole."""
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)
        if self._folder.is_dir() and not any(self._folder.iterdir()):
            self._folder.rmdir()
