"""Fuzz test of the decoder: every damaged clip is decoded or refused, none hangs.

    python benchmarks/fuzz_clips.py [--files 1000] [--seed 0] [--clips FOLDER]

Takes generated clips of several containers and codecs, and with ``--clips`` the MP4
files of a folder as well; changes or removes random bytes of each copy; and reads 16
frames of every copy, as training does. Prints how many were decoded, how many refused
for each reason, the longest time and the peak of memory. The exit status is 1 if a file
took too long, raised an error other than `UnusableClip`, or returned frames that are
black or repeated where those of the undamaged clip are not. A crash of FFmpeg ends the
process, so a caller notices it too.
"""

import argparse
import collections
import io
import re
import resource
import sys
import time
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from snapvideo_jax.data.container import UnusableClip
from snapvideo_jax.data.records import encode_mp4
from snapvideo_jax.data.transforms import frame_times
from snapvideo_jax.data.video import Clip

COVER, FRAMES = (36, 64), 16
SECONDS = 5.0
"""Allowed for one file."""
BLACK = 4.0
"""Mean level below which a frame counts as black."""


def moving(count: int = 32, height: int = 72, width: int = 128) -> np.ndarray:
    """Frames of a pattern that moves, no two alike and none dark."""
    coarse = np.random.default_rng(0).integers(40, 256, (9, 16, 3), dtype=np.uint8)
    picture = coarse.repeat(height // 9, 0).repeat(width // 16, 1)
    return np.stack([np.roll(picture, (i, 2 * i), (0, 1)) for i in range(count)])


def encoded(codec: str, container: str, pixels: str, **options: str) -> bytes:
    """The moving pattern in some format."""
    frames, file = moving(), io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=Fraction(12), options=options)
        _, stream.height, stream.width, _ = frames.shape
        stream.pix_fmt = pixels
        for rgb in frames:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, "rgb24")))
        output.mux(stream.encode())
    return file.getvalue()


def whole_clips(folder: Path | None) -> list[bytes]:
    """What is damaged: real files where there are some, and one of each format."""
    files = sorted(folder.glob("*.mp4")) if folder else []
    return [
        encode_mp4(moving(), fps=12),
        encoded("libx264", "mp4", "yuv420p", bf="3", g="12", movflags="faststart"),
        encoded("libx264", "matroska", "yuv420p", bf="2", g="8"),
        encoded("libx264", "mpegts", "yuv420p", g="8"),
        encoded("libvpx-vp9", "webm", "yuv420p", deadline="realtime"),
        encoded("mpeg4", "avi", "yuv420p", qmax="4"),
        encoded("mjpeg", "avi", "yuvj420p"),
        *(path.read_bytes() for path in files),
    ]


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """A copy with bytes flipped, cut off, cut out or zeroed."""
    harm = np.frombuffer(data, np.uint8).copy()
    way = rng.choice(["flip", "few", "cut", "hole", "zero"])
    if way in ("flip", "few"):
        count = 1 + int(rng.integers(3 if way == "few" else max(4, len(harm) // 200)))
        places = rng.integers(len(harm), size=count)
        harm[places] ^= rng.integers(1, 256, size=count, dtype=np.uint8)
        return harm.tobytes()
    begin = int(rng.integers(len(harm)))
    if way == "cut":
        return harm[:begin].tobytes()
    end = min(len(harm), begin + 1 + int(rng.integers(len(harm) // 4)))
    if way == "hole":
        return np.delete(harm, slice(begin, end)).tobytes()
    harm[begin:end] = 0
    return harm.tobytes()


def read(data: bytes, seed: int) -> np.ndarray:
    """16 frames of a clip, as training takes them."""
    with Clip(data, COVER, SECONDS) as clip:
        rng = np.random.default_rng(seed)
        times, _ = frame_times(rng, clip.info, min(FRAMES, clip.info.frames), 1.0)
        return clip.frames_at(times)


def faults(frames: np.ndarray) -> set[str]:
    """What a decoder might pass off as frames."""
    found = set()
    if (frames.mean((1, 2, 3)) < BLACK).any():
        found.add("black frames")
    if len(frames) > 1 and (frames[1:] == frames[:-1]).all((1, 2, 3)).any():
        found.add("repeated frames")
    return found


@dataclass
class Result:
    """Of one damaged file.

    what: "decoded", with other frames or not, or the reason that it was refused with,
        without its numbers.
    seconds: that it took.
    fault: what must not be; empty where nothing is.
    """

    what: str
    seconds: float
    fault: str


def attempt(whole: bytes, data: bytes, seed: int) -> Result:
    """Reads a damaged copy of a clip."""
    began, fault = time.monotonic(), ""
    try:
        frames, true = read(data, seed), read(whole, seed)
        what = "decoded" + ("" if np.array_equal(frames, true) else ", other frames")
        fault = ", ".join(sorted(faults(frames) - faults(true)))
    except UnusableClip as error:
        what = re.sub(r"[-\d.]+", "#", str(error))
    except Exception as error:  # anything else would end a run
        what, fault = "error", repr(error)
    seconds = time.monotonic() - began
    if seconds > SECONDS + 1:
        fault = f"took {seconds:.1f} s"
    return Result(what, seconds, fault)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clips", type=Path, metavar="FOLDER", help="of MP4 files")
    arguments = parser.parse_args()
    clips = whole_clips(arguments.clips)
    results = []
    for number in range(arguments.files):
        rng = np.random.default_rng([arguments.seed, number])
        # By turns, so that the formats made here are not lost among many files.
        of = number % 7 if number % 2 else int(rng.integers(len(clips)))
        results.append(attempt(clips[of], damaged(clips[of], rng), number))
        if results[-1].fault:
            print(f"file {number}: {results[-1].what}: {results[-1].fault}")
    for what, count in collections.Counter(x.what for x in results).most_common():
        print(f"{count:6d} {what}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    longest = max(result.seconds for result in results)
    print(f"{len(results)} files, longest {longest:.2f} s, peak {peak:.0f} MB")
    sys.exit(any(result.fault for result in results))


if __name__ == "__main__":
    main()
