"""Decoding compared with decord and torchcodec: 16 frames of 64x36 px of larger clips.

    pip install decord torchcodec torch
    python benchmarks/decode.py [--clips FOLDER]

All read the same bytes in memory in one process, in one thread each, in turns, and
return the same 16 frames, reduced by the filter of each library. Before anything is
timed, both are checked to return the same frames as ours. torchcodec needs the shared
libraries of FFmpeg 4 to 9; a library that is missing is reported and left out. Without
``--clips`` the sources are generated: 64 frames of a moving pattern, 256x144 and
512x288. With it they are the first 10 clips of each of these sizes in the folder.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from snapvideo_jax.data.container import UnusableClip
from snapvideo_jax.data.records import encode_mp4
from snapvideo_jax.data.video import decode_at, probe

HEIGHT, WIDTH, FRAMES = 36, 64, 16
SOURCES = ((144, 256), (288, 512))
CLIPS = 10
TURNS = 5
TOLERANCE = 1.0
"""Grey levels, in the mean, by which a frame may be nearer to another one of ours."""

Decoder = Callable[[bytes, np.ndarray, float], np.ndarray]


def ours(data: bytes, numbers: np.ndarray, fps: float) -> np.ndarray:
    return decode_at(data, numbers / fps, (HEIGHT, WIDTH))


def with_decord(data: bytes, numbers: np.ndarray, fps: float) -> np.ndarray:
    import decord

    reader = decord.VideoReader(
        BytesIO(data), width=WIDTH, height=HEIGHT, num_threads=1
    )
    return reader.get_batch(numbers).asnumpy()


def with_torchcodec(data: bytes, numbers: np.ndarray, fps: float) -> np.ndarray:
    from torchcodec.decoders import VideoDecoder
    from torchcodec.transforms import Resize

    decoder = VideoDecoder(
        data,
        dimension_order="NHWC",
        num_ffmpeg_threads=1,
        # The faster of its ways to find frames, for files of an even frame-rate.
        seek_mode="approximate",
        transforms=[Resize((HEIGHT, WIDTH))],
    )
    return decoder.get_frames_at(numbers.tolist()).data.numpy()


def installed() -> dict[str, Decoder]:
    """Those that work here; says of the others why not."""
    decoders: dict[str, Decoder] = {"ours": ours}
    try:
        import decord  # noqa: F401

        decoders["decord"] = with_decord
    except (ImportError, OSError) as error:
        print(f"decord cannot be used: {error}")
    try:
        import torch
        from torchcodec.decoders import VideoDecoder  # noqa: F401

        torch.set_num_threads(1)
        decoders["torchcodec"] = with_torchcodec
    except (ImportError, OSError, RuntimeError) as error:
        print(f"torchcodec cannot be used: {str(error).strip().splitlines()[0]}")
    return decoders


def pattern(height: int, width: int, seed: int) -> bytes:
    """64 frames of a picture that moves, with grain, which takes bits as film does."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(256, size=(height // 16, width // 16, 3), dtype=np.uint8)
    # Smooth, so that filters hardly differ.
    picture = np.asarray(Image.fromarray(coarse).resize((width, height)))
    steps = rng.integers(3, 6, size=2)
    frames = np.stack([np.roll(picture, tuple(i * steps), (0, 1)) for i in range(64)])
    grain = rng.integers(-6, 7, size=frames.shape)
    return encode_mp4(np.clip(frames + grain, 0, 255).astype(np.uint8), 24, 23, gop=250)


def clips_of(folder: Path, height: int, width: int) -> list[bytes]:
    """The first clips of a size in a folder."""
    found = []
    for path in sorted(folder.glob("*.mp4")):
        try:
            info = probe(path)
        except UnusableClip:
            continue
        if (info.height, info.width) == (height, width) and info.frames >= FRAMES:
            found.append(path.read_bytes())
        if len(found) == CLIPS:
            break
    return found


def asked(data: bytes, way: str) -> tuple[np.ndarray, float]:
    """Numbers of the frames to take, and the frame-rate that makes them moments."""
    info = probe(data)
    room = info.frames - FRAMES
    if way == "neighbours":
        return room // 2 + np.arange(FRAMES), info.fps
    return np.linspace(0, info.frames - 1, FRAMES).round().astype(int), info.fps


def check(decoders: dict[str, Decoder], questions: list[tuple]) -> None:
    """Refuses to compare decoders that give other frames.

    Filters differ, so a frame has to be nearer to ours of its number than to others.

    Raises:
        ValueError: names the one that does, and which frame it is.
    """
    for question in questions:
        reference = ours(*question).astype(float)
        for name, decode in decoders.items():
            for number, frame in enumerate(decode(*question)):
                apart = abs(frame - reference).mean((1, 2, 3))
                if apart[number] > apart.min() + TOLERANCE:
                    raise ValueError(
                        f"frame {number} of {name} is our frame {apart.argmin()}"
                    )


def compare(decoders: dict[str, Decoder], questions: list[tuple]) -> dict[str, float]:
    """Clips a second and core of each: the median of some turns over all clips."""
    seconds: dict[str, list[float]] = {name: [] for name in decoders}
    for _ in range(TURNS):
        for name, decode in decoders.items():
            began = time.process_time()
            for question in questions:
                decode(*question)
            seconds[name].append(time.process_time() - began)
    return {
        name: len(questions) / statistics.median(turns)
        for name, turns in seconds.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=Path, metavar="FOLDER", help="of MP4 files")
    folder = parser.parse_args().clips
    decoders = installed()
    for height, width in SOURCES:
        made = [pattern(height, width, seed) for seed in range(0 if folder else CLIPS)]
        clips = clips_of(folder, height, width) if folder else made
        for way in ("neighbours", "spread"):
            questions = [(data, *asked(data, way)) for data in clips]
            check(decoders, questions)
            rates = compare(decoders, questions)
            best = max((r for n, r in rates.items() if n != "ours"), default=None)
            line = ", ".join(f"{name} {rate:.1f}" for name, rate in rates.items())
            ratio = f"; ours / best other {rates['ours'] / best:.2f}" if best else ""
            print(f"{width}x{height}, {len(clips)} clips, {way}: {line} clips/s{ratio}")


if __name__ == "__main__":
    main()
