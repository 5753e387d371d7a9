"""Captioned moving shapes: a generated data set whose samples can be judged exactly.

A scene is one coloured shape that moves in one direction over a grey background: six
colours, three shapes and four directions give 72 triples, and size, speed, start and
grey level vary within each. Sixteen triples are held out of training, so a model that
generates them for a prompt has learnt to compose words, not to recall clips.
`shapes.judge` recognizes the triple in pixels.

Scenes are pure functions of (seed, split, index). `build` writes them once, as MP4 and
PNG files with captions and as the same bytes in ArrayRecord files.
Lengths are in sides of the square frame, x to the right and y down.
"""

import itertools
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from snapvideo_jax.data.records import RecordWriter, encode_mp4, encode_png

FORMAT = 3
FPS = 24
FRAMES = 48
SIZE = 32
DURATION = (FRAMES - 1) / FPS
"""Seconds from the first frame to the last; the shape stays in the frame."""

COLOURS = {
    "red": (235, 20, 20),
    "green": (20, 170, 20),
    "blue": (20, 20, 235),
    "yellow": (235, 235, 20),
    "magenta": (235, 20, 235),
    "cyan": (20, 235, 235),
}
SHAPES = {"cross": 0.4, "square": 0.9, "triangle": 0.68}
"""Distance from the centre of gravity to the sides (of the cross: to those of its arms,
which are three times as long as wide), in radii of a circle of about the same area.
They are distinct at 16 px, where a circle of 3 px radius would look like a square."""
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}

SIZES = {"small": (0.18, 0.205), "large": (0.225, 0.25)}
# Greys are 20 or more from each colour's luma, so edges survive 4:2:0 chroma.
BACKGROUNDS = {"black": (8, 28), "grey": (134, 146), "white": (227, 247)}
SLOW = (0.135, 0.15)
FASTEST = 0.3
"""Sides a second. Fast scenes go at 85 to 100 % of this or of what fits the frame."""
MARGIN = 0.01
WANDER = 0.3
"""Range of the start, as a share of the free space; clips cross the middle."""

TRIPLES = tuple(itertools.product(COLOURS, SHAPES, DIRECTIONS))
"""All 72 (colour, shape, direction)."""
HELD_OUT = frozenset(
    (colour, shape, direction)
    for (i, colour), (j, shape), (k, direction) in itertools.product(
        enumerate(COLOURS), enumerate(SHAPES), enumerate(DIRECTIONS)
    )
    if (i + 3 * j + k) % 9 in (0, 4)
)
"""The 16 triples that training never sees: 2 or 3 of a colour, 5 or 6 of a shape, 4 of
a direction, and at most 2 of any pair of words."""
SPLITS = {
    "train": tuple(triple for triple in TRIPLES if triple not in HELD_OUT),
    "test": tuple(triple for triple in TRIPLES if triple in HELD_OUT),
}


@dataclass(frozen=True)
class Scene:
    """One shape, its motion and its background, which determine captions and frames.

    colour, shape, direction: keys of `COLOURS`, `SHAPES`, `DIRECTIONS`.
    size, speed, background: the words for the numbers below.
    radius: of a circle with about the area of the shape. Frame sides.
    velocity: frame sides a second, along ``direction``, above 0.
    x, y: centre of gravity in the first frame, frame sides from the top left corner.
    level: grey level of the background, 0 to 255.
    phrasing: number of the caption's phrasing, 0 to 31.
    """

    colour: str
    shape: str
    direction: str
    size: str
    speed: str
    background: str
    radius: float
    velocity: float
    x: float
    y: float
    level: int
    phrasing: int


def sample_scene(seed: int, index: int, split: str) -> Scene:
    """Returns scene ``index`` of a split, a pure function of the arguments.

    Args:
        seed: of the data set, at least 0.
        index: any number from 0; triples are drawn uniformly, not in order.
        split: "train" (56 triples) or "test" (the 16 of `HELD_OUT`).
    """
    triples = _triples(split)
    rng = np.random.default_rng([seed, list(SPLITS).index(split), index])
    return _draw(triples[rng.integers(len(triples))], rng)


def caption(scene: Scene, image: bool = False) -> str:
    """Returns one of 32 phrasings of a scene, e.g. "red circle moving left".

    Colour, shape and direction are always named; size, speed and background are named
    in half of the captions each. Captions of images name neither direction nor speed.

    Args:
        scene: its ``phrasing`` chooses the words.
        image: whether the caption is for `render_image`.
    """
    size, speed, background, article, verb = (
        bool(scene.phrasing >> bit & 1) for bit in range(5)
    )
    words = [
        "a" if article else "",
        scene.size if size else "",
        scene.colour,
        scene.shape,
    ]
    if not image:
        words += ["moves" if verb else "moving", scene.direction]
        words += [scene.speed if speed else ""]
    words += [f"on a {scene.background} background" if background else ""]
    return " ".join(word for word in words if word)


def held_out_prompts(
    count: int = 64, seed: int = 0
) -> list[tuple[str, tuple[str, str, str]]]:
    """Returns (prompt, held-out triple) pairs that cycle through the triples.

    Args:
        count: how many; a multiple of 16 names every triple equally often.
        seed: of the phrasings and the optional words.
    """
    triples = SPLITS["test"]
    return [
        (caption(_draw(triple, np.random.default_rng([seed, len(SPLITS), i]))), triple)
        for i, triple in zip(range(count), itertools.cycle(triples), strict=False)
    ]


def render(
    scene: Scene, frames: int = FRAMES, fps: float = FPS, size: int = SIZE
) -> UInt8[np.ndarray, "t h w c"]:
    """Returns the clip of a scene, antialiased and smooth below the pixel.

    Args:
        scene: what to draw.
        frames: number of frames, from 1.
        fps: frames a second, above 0.
        size: height and width in pixels.

    Raises:
        ValueError: the clip is longer than the scene, so the shape could leave it.
    """
    if (frames - 1) / fps > DURATION + 1e-6:
        raise ValueError(
            f"frames={frames} at fps={fps} last {(frames - 1) / fps:.2f} s, wanted at "
            f"most {DURATION:.2f} s; use fewer frames or a higher fps."
        )
    travel = scene.velocity * np.arange(frames) / fps
    along_x, along_y = DIRECTIONS[scene.direction]
    alpha = coverage(
        scene.shape,
        (scene.x + along_x * travel) * size,
        (scene.y + along_y * travel) * size,
        np.float64(scene.radius * size),
        size,
        size,
    )
    # Mixing 256 shades once is several times faster than mixing every pixel.
    share = np.linspace(0, 1, 256)[:, None]
    shades = scene.level * (1 - share) + np.array(COLOURS[scene.colour]) * share
    shades = np.rint(shades).astype(np.uint8)
    return shades.take(np.rint(alpha * 255).astype(np.uint8), axis=0)


def render_image(scene: Scene, size: int = SIZE) -> UInt8[np.ndarray, "h w c"]:
    """Returns the first frame of a scene."""
    return render(scene, frames=1, size=size)[0]


def coverage(
    shape: str,
    x: Float[np.ndarray, "*n"],
    y: Float[np.ndarray, "*n"],
    radius: Float[np.ndarray, "*#n"] | np.float64,
    height: int,
    width: int,
) -> Float[np.ndarray, "*n h w"]:
    """Returns how much of each pixel a shape covers, 0 to 1.

    Exact for square and cross; a triangle's edges are ramps one pixel wide.

    Args:
        shape: key of `SHAPES`.
        x, y: centre of gravity, in pixels from the top left corner.
        radius: in pixels, see `Scene`.
        height, width: of the frame, in pixels.
    """
    grid_y, grid_x = np.mgrid[:height, :width].astype(np.float32) + 0.5
    dx = np.abs(grid_x - np.asarray(x, np.float32)[..., None, None])
    dy = grid_y - np.asarray(y, np.float32)[..., None, None]
    side = np.asarray(SHAPES[shape] * radius, np.float32)[..., None, None]

    def within(distance, limit):
        return np.clip(limit - distance + 0.5, 0, 1)

    if shape == "triangle":
        slanted = np.sqrt(np.float32(0.75)) * dx - 0.5 * dy
        return within(dy, side) * within(slanted, side)
    near_x, near_y = within(dx, side), within(np.abs(dy), side)
    if shape == "square":
        return near_x * near_y
    far_x, far_y = within(dx, 3 * side), within(np.abs(dy), 3 * side)
    return far_x * near_y + near_x * far_y - near_x * near_y


def build(
    root: Path | str,
    seed: int = 0,
    videos: int = 6000,
    images: int = 3000,
    size: int = SIZE,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Returns the folder of the training set, which the first call writes.

    It contains ``videos/00000.mp4``, ``images/00000.png``, ``captions.jsonl`` (a line
    for each file), the same in ``video.array_record`` and ``image.array_record`` (see
    `data.records`), and ``dataset.json`` with the arguments. The folder is written
    atomically, and its name contains the arguments.

    Args:
        root: parent of the folder.
        seed: of the scenes, at least 0.
        videos, images: how many of each; image i shows scene ``videos + i``.
        size: height and width in pixels, even.
        workers: encoding threads; one per core unless given.
        progress: called with (files done, files in all) after each file.
    """
    arguments = {"seed": seed, "videos": videos, "images": images, "size": size}
    name = f"shapes-v{FORMAT}-s{seed}-{videos}v-{images}i-{size}px"
    folder = Path(root) / name
    if (folder / "dataset.json").exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=".shapes-") as temporary:
        fresh = Path(temporary) / name
        _write(fresh, arguments, workers or os.cpu_count() or 1, progress)
        try:
            os.replace(fresh, folder)
        except OSError:
            # Another process may have written the same data set first.
            if not (folder / "dataset.json").exists():
                raise
    return folder


def _triples(split: str) -> tuple[tuple[str, str, str], ...]:
    if split not in SPLITS:
        raise ValueError(f"split={split!r} is unknown; use one of {list(SPLITS)}.")
    return SPLITS[split]


def _draw(triple: tuple[str, str, str], rng: np.random.Generator) -> Scene:
    """Returns a scene of a triple, everything else drawn from ``rng``."""
    colour, shape, direction = triple
    size, background = (str(rng.choice(list(words))) for words in (SIZES, BACKGROUNDS))
    speed = str(rng.choice(["slowly", "fast"]))
    radius = rng.uniform(*SIZES[size])
    # Range of the centre: the frame less the margin and the extent of the shape.
    left, right, up, down = (MARGIN + reach * radius for reach in _reach(shape))
    room_x, room_y = 1 - left - right, 1 - up - down
    along_x, along_y = DIRECTIONS[direction]
    if speed == "slowly":
        velocity = rng.uniform(*SLOW)
    else:
        limit = min(FASTEST, (room_x if along_x else room_y) / DURATION)
        velocity = limit * rng.uniform(0.85, 1)
    travel = velocity * DURATION
    place_x, place_y = 0.5 + WANDER * rng.uniform(-0.5, 0.5, size=2)
    free_x = left + place_x * (room_x - travel * abs(along_x))
    free_y = up + place_y * (room_y - travel * abs(along_y))
    return Scene(
        colour,
        shape,
        direction,
        size,
        speed,
        background,
        radius=float(radius),
        velocity=float(velocity),
        x=float(free_x + travel * (along_x < 0)),
        y=float(free_y + travel * (along_y < 0)),
        level=int(rng.integers(*BACKGROUNDS[background], endpoint=True)),
        phrasing=int(rng.integers(32)),
    )


def _reach(shape: str) -> tuple[float, float, float, float]:
    """Returns the extent of a shape of radius 1 to the left, right, top and bottom."""
    side = SHAPES[shape]
    if shape == "triangle":
        return 3**0.5 * side, 3**0.5 * side, 2 * side, side
    reach = 3 * side if shape == "cross" else side
    return reach, reach, reach, reach


def _write(
    folder: Path,
    arguments: dict[str, int],
    workers: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Writes all files of a data set, ``dataset.json`` last."""
    for kind in ("videos", "images"):
        (folder / kind).mkdir(parents=True)
    total = arguments["videos"] + arguments["images"]
    with (
        open(folder / "captions.jsonl", "w") as captions,
        RecordWriter(folder / "video.array_record") as video_records,
        RecordWriter(folder / "image.array_record") as image_records,
    ):
        writers = {"video": video_records, "image": image_records}
        for done, record in enumerate(_records(arguments, workers), 1):
            (folder / record["file"]).write_bytes(record["data"])
            writers[record["type"]].write(record)
            line = {key: value for key, value in record.items() if key != "data"}
            captions.write(json.dumps(line) + "\n")
            if progress:
                progress(done, total)
    (folder / "dataset.json").write_text(
        json.dumps({"format": FORMAT, **arguments}, indent=2) + "\n"
    )


def _records(arguments: dict[str, int], workers: int) -> Iterator[dict[str, Any]]:
    """Yields the records of all videos, then of all images, in order."""
    seed, videos, size = (arguments[key] for key in ("seed", "videos", "size"))

    def make(index: int) -> dict[str, Any]:
        scene = sample_scene(seed, index, "train")
        image = index >= videos
        return _record(scene, index - videos * image, size, image)

    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(make, range(videos + arguments["images"]))


def _record(scene: Scene, number: int, size: int, image: bool) -> dict[str, Any]:
    return {
        "file": f"images/{number:05}.png" if image else f"videos/{number:05}.mp4",
        "type": "image" if image else "video",
        "caption": caption(scene, image),
        "width": size,
        "height": size,
        "fps": None if image else FPS,
        "frames": 1 if image else FRAMES,
        "colour": scene.colour,
        "shape": scene.shape,
        "direction": None if image else scene.direction,
        "data": encode_png(render_image(scene, size))
        if image
        else encode_mp4(render(scene, size=size), FPS),
    }
