"""Videos of 64 frames by the demo model, in two levels of windows.

    python benchmarks/long_video.py --workdir runs/demo-long --out OUT

16 held-out prompts of slow motion are extended as by `snapvideo extend --rates 8,24
--overlap 3`, and judged by arithmetic. The demo trains at 3.6 to 6 frames a second, at
which a clip lasts as long as its motion and has no continuation; `configs/demo_long.py`
trains at the rates used here. 64 frames at 24 frames a second last 2.7 seconds: slow
shapes, which cross 0.3 sides in the 2 seconds of a clip, have room to continue, fast
ones do not.

Requirements, each in at least 80% of the videos: colour and shape are the same in every
8 frames; the track of the object's centre is continuous, with a largest jump below
twice the median. Jumps are over an eighth of a second, because at 24 frames a second
and 16 px the motion in one frame is below the judge's resolution. And 64 frames cost at
most 4.5 times as much as 16, without compilation.
"""

import argparse
import functools
from pathlib import Path

import numpy as np

from snapvideo_jax.cli.parsers.types import several
from snapvideo_jax.data.shapes.dataset import (
    DURATION,
    held_out_prompts,
    render,
    sample_scene,
)
from snapvideo_jax.data.shapes.judge import judge, track
from snapvideo_jax.diffusion import Reconstruction
from snapvideo_jax.diffusion.windows import check_rates, windows
from snapvideo_jax.io import media
from snapvideo_jax.planning.bench import interleaved
from snapvideo_jax.sampling import loading, long_video, options
from snapvideo_jax.sampling.generator import Generator, Request

SHARE, TIMES, JUMP = 0.8, 4.5, 2.0
PART = 8
"""Frames that are judged together."""
SHORT = 4
"""Factor between the numbers of frames whose costs are compared."""


def generate(generator, params, request: Request, plan, model) -> np.ndarray:
    """Videos ``[b t h w c]``, window by window."""
    video = long_video.with_known(model, plan, {}, len(request.numbers))
    for _ in long_video.in_windows(generator, params, request, plan, video):
        pass
    return video


def jump(frames: np.ndarray, fps: float) -> float:
    """The largest over the median motion of the centre in an eighth of a second."""
    centres = track(frames)
    if centres is None:
        return float("inf")
    apart = max(1, round(fps / 8))
    steps = np.linalg.norm(centres[apart:] - centres[:-apart], axis=1)
    return float(np.nan_to_num(steps, nan=np.inf).max() / np.median(steps))


def looks(frames: np.ndarray) -> set[tuple[str | None, str | None]]:
    """The colours and shapes in the parts of a video."""
    parts = [frames[at : at + PART] for at in range(0, len(frames), PART)]
    verdicts = [judge(part) for part in parts if len(part) == PART]
    return {(verdict.colour, verdict.shape) for verdict in verdicts}


def is_constant(frames: np.ndarray) -> bool:
    """Whether colour and shape are recognized, and the same in all parts."""
    found = looks(frames)
    return len(found) == 1 and None not in next(iter(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workdir", required=True, metavar="DIR", help="of the demo")
    parser.add_argument("--out", required=True, metavar="DIR", help="for a sheet")
    parser.add_argument("--frames", type=int, default=64)
    parser.add_argument("--count", type=int, default=16, help="prompts: 16")
    parser.add_argument("--rates", type=several(float), default=(8, 24), help="8,24")
    parser.add_argument("--overlap", type=int, default=3, help="see snapvideo extend")
    parser.add_argument("--products", type=int, default=2, help="see snapvideo extend")
    parser.add_argument("--repeats", type=int, default=3, help="timed turns: 3")
    arguments = parser.parse_args()
    experiment, params, _, mesh = loading.load(Path(arguments.workdir))
    model, rates = experiment.model, arguments.rates
    check_rates(rates, model.frames)
    triples = [triple for _, triple in held_out_prompts(arguments.count)]
    prompts = [
        f"a {colour} {shape} moving {way} slowly" for colour, shape, way in triples
    ]
    guided = Reconstruction(products=arguments.products)
    generator = Generator(experiment, experiment.sampler, mesh, reconstruction=guided)
    request = Request(
        prompts=prompts,
        numbers=range(arguments.count),
        seed=0,
        guidance=experiment.sheets.guidance,
        fps=rates[-1],
        resolution=options.resolution_of(experiment),
    )
    plans = {
        frames: windows(frames, rates, model.frames, overlap=arguments.overlap)
        for frames in (arguments.frames // SHORT, arguments.frames)
    }
    calls = {
        frames: functools.partial(generate, generator, params, request, plan, model)
        for frames, plan in plans.items()
    }
    times = interleaved(calls, arguments.repeats, warm_up=1)
    video = calls[arguments.frames]()[:, : arguments.frames]
    scenes = [sample_scene(1, number, "test") for number in range(4 * arguments.count)]
    scenes = [scene for scene in scenes if scene.speed == "slowly"]
    most = min(arguments.frames, int(DURATION * rates[-1]) + 1)
    real = [render(scene, most, rates[-1], model.width) for scene in scenes]
    print("| prompt | colour and shape | largest over median jump |")
    print("|---|---|---|")
    jumps = [jump(frames, rates[-1]) for frames in video]
    for prompt, frames, found in zip(prompts, video, jumps, strict=True):
        seen = "; ".join(sorted(f"{c or '?'} {s or '?'}" for c, s in looks(frames)))
        print(f"| {prompt} | {seen} | {found:.2f} |")
    of_data = np.median([jump(frames, rates[-1]) for frames in real])
    print(f"In the data the largest over the median jump is {of_data:.2f}.")
    sheet = media.contact_sheet(video, 4, prompts, scale=experiment.sheets.scale)
    Path(arguments.out).mkdir(parents=True, exist_ok=True)
    media.write_gif(Path(arguments.out) / "sheet.gif", sheet, rates[-1])
    shares = {
        "colour and shape are constant": np.mean([is_constant(v) for v in video]),
        f"the largest jump is under {JUMP:g} medians": np.mean(np.array(jumps) < JUMP),
    }
    for name, share in shares.items():
        print(f"{'HOLDS' if share >= SHARE else 'FAILS'}: {name} in {share:.0%}.")
    few, many = (each.median for each in times.values())
    used = [sum(each.processor_seconds) for each in times.values()]
    print(
        f"{'HOLDS' if many <= TIMES * few else 'FAILS'}: {many / few:.2f} times the "
        f"time for {SHORT} times the frames ({few:.1f} s for "
        f"{arguments.frames // SHORT}, {many:.1f} s for {arguments.frames}; "
        f"{used[1] / used[0]:.2f} times by processor time); required at most {TIMES}."
    )


if __name__ == "__main__":
    main()
