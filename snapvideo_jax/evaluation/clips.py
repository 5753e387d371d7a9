"""Finds the clips to score in folders, manifests and arrays, and reads their frames.

A manifest connects generating clips with scoring them: one JSON object per line, with
``index``, ``video`` (a path relative to the manifest's folder) and optionally
``prompt``, ``class`` and ``seed``. A folder is searched recursively for videos, strips
of frames side by side, and folders of single frames.
"""

import dataclasses
import functools
import hashlib
import json
import os
import threading
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import UInt8

from snapvideo_jax.data.container import UnusableClip
from snapvideo_jax.data.image import decode_image
from snapvideo_jax.data.video import Clip
from snapvideo_jax.evaluation import resize
from snapvideo_jax.io.captions import CAPTIONS, read_entries
from snapvideo_jax.io.npz import open_npz

VIDEOS = (".mp4", ".gif", ".webm", ".avi", ".mkv", ".mov", ".mpg", ".m4v")
PICTURES = (".png", ".jpg", ".jpeg")
ARRAYS = (".npz",)
EXACT_FIRST = (*ARRAYS, ".png", *VIDEOS)
"""Of a clip in several formats, the first of these is read."""
MANIFEST = "manifest.jsonl"
OVERVIEW = "sheet"
"""Stem of the contact sheet that `snapvideo sample` writes; it is not a clip."""
MAX_ASPECT = 4
"""Largest aspect ratio of a frame in a strip; other pictures are not strips."""

Position = Literal["start", "center", "random"]
POSITIONS = get_args(Position)


@dataclasses.dataclass(frozen=True)
class Item:
    """One clip.

    name: for messages; unique in a set.
    path: its file, or its folder of frames.
    row: its index in an array of several clips.
    prompt: the caption that it was generated from, if known.
    """

    name: str
    path: Path
    row: int | None = None
    prompt: str | None = None

    def fingerprint(self, with_time: bool) -> list:
        """Values that change with the clip's file.

        Args:
          with_time: include the modification time, which copying changes.
        """
        try:
            status = self.path.stat()
        except OSError:
            return [self.name, self.prompt]
        time = [status.st_mtime_ns] if with_time else []
        return [self.name, self.prompt, status.st_size, *time]


@dataclasses.dataclass(frozen=True)
class Selection:
    """Which frames of a clip are scored.

    Attributes:
      frames: number of frames.
      fps: frame rate that they are taken at, by presentation time; None takes
        consecutive frames at any rate.
      position: "start", "center" or "random".
      seed: of the random position, which also depends on the clip's name.
    """

    frames: int = 16
    fps: float | None = None
    position: Position = "start"
    seed: int = 0

    def __post_init__(self):
        if self.frames < 1:
            raise ValueError(f"--frames={self.frames} is too small; use 1 or more.")
        if self.fps is not None and not self.fps > 0:
            raise ValueError(f"--fps={self.fps} is not above 0; leave it out for all.")
        if self.position not in POSITIONS:
            raise ValueError(
                f"--position={self.position!r} is unknown; use one of {POSITIONS}."
            )

    def described(self) -> dict[str, Any]:
        """The fields that change a score, as JSON."""
        fields = dataclasses.asdict(self)
        return fields if self.position == "random" else fields | {"seed": None}

    def start(self, spare: float, name: str) -> float:
        """Where the selection starts in a clip, from 0 to ``spare``."""
        if self.position == "start":
            return 0.0
        if self.position == "center":
            return spare / 2
        key = hashlib.sha256(f"{self.seed} {name}".encode()).digest()
        return spare * (int.from_bytes(key[:6], "big") / 2**48)


# --- Finding clips ------------------------------------------------------------------


def find(path: Path) -> list[Item]:
    """The clips of a folder, a manifest or an .npz, in a fixed order.

    Raises:
      ValueError: there are none, or a line of the manifest is invalid; names the line.
    """
    if path.is_dir():
        if (path / MANIFEST).is_file():
            return _manifest(path / MANIFEST)
        if (path / CAPTIONS).is_file():
            return _captions(path / CAPTIONS)
        found = list(_search(path))
    elif path.suffix == ".jsonl" and path.is_file():
        return _manifest(path)
    elif path.suffix in ARRAYS and path.is_file():
        found = list(_rows(path, path.name))
    else:
        raise ValueError(f"{path} is not a folder, manifest (.jsonl) or .npz of clips.")
    if not found:
        raise ValueError(
            f"{path} has no clips; wanted {', '.join(EXACT_FIRST)}, folders of "
            f"frames, or a {MANIFEST}."
        )
    return found


def digest(items: Sequence[Item], with_time: bool) -> str:
    """A hash of names, prompts, file sizes and (``with_time``) modification times."""
    whole = hashlib.sha256()
    for item in items:
        whole.update(json.dumps(item.fingerprint(with_time)).encode())
    return whole.hexdigest()[:16]


def _search(root: Path) -> Iterator[Item]:
    for folder, folders, names in sorted(os.walk(root)):
        folders.sort()
        here = Path(folder)
        suffixes = {Path(name).suffix.lower() for name in names}
        is_frames = suffixes & set(PICTURES) and not suffixes & {*VIDEOS, *ARRAYS}
        if here != root and is_frames:
            yield Item(str(here.relative_to(root)), here)
            continue
        for path in _one_of_each(here, names):
            name = str(path.relative_to(root))
            if path.suffix.lower() in ARRAYS:
                yield from _rows(path, name)
            else:
                yield Item(name, path, prompt=_noted_prompt(path))


def _one_of_each(folder: Path, names: Sequence[str]) -> list[Path]:
    """One file for every stem, the first of `EXACT_FIRST`."""
    best: dict[str, Path] = {}
    for name in sorted(names):
        path = folder / name
        suffix = path.suffix.lower()
        if suffix not in EXACT_FIRST or path.stem == OVERVIEW or name.startswith("."):
            continue
        rival = best.get(path.stem)
        if rival is None or EXACT_FIRST.index(suffix) < EXACT_FIRST.index(
            rival.suffix.lower()
        ):
            best[path.stem] = path
    return [best[stem] for stem in sorted(best)]


def _rows(path: Path, name: str) -> Iterator[Item]:
    """The clips of an array; only its header is read."""
    try:
        shape = _array_shape(path)
    except UnusableClip:
        yield Item(name, path)  # reading it reports the reason
        return
    if len(shape) == 4:
        yield Item(name, path)
    else:
        yield from (Item(f"{name}[{row}]", path, row) for row in range(shape[0]))


def _noted_prompt(path: Path) -> str | None:
    """The prompt in the .json that `snapvideo sample` writes for a clip."""
    about = path.with_suffix(".json")
    if not about.is_file():
        return None
    try:
        prompt = json.loads(about.read_text("utf-8"))["prompt"]
    except (ValueError, KeyError, TypeError):
        return None
    return prompt if isinstance(prompt, str) else None


def _manifest(path: Path) -> list[Item]:
    items: dict[int, Item] = {}
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        where = f"{path}: line {number}"
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{where} is not JSON ({error}).") from error
        if not isinstance(entry, dict):
            raise ValueError(f"{where} is not a JSON object.")
        index, video, prompt = (entry.get(x) for x in ("index", "video", "prompt"))
        if not isinstance(index, int) or isinstance(index, bool) or index < 0:
            raise ValueError(f"{where} has index={index!r}; use 0 or more.")
        if not isinstance(video, str) or not isinstance(prompt, str | None):
            raise ValueError(f"{where}: video and prompt have to be strings.")
        if index in items:
            raise ValueError(f"{where} repeats index={index}; use each once.")
        items[index] = Item(video, path.parent / video, prompt=prompt)
    if not items:
        raise ValueError(f"{path} lists no clips.")
    return [items[index] for index in sorted(items)]


def _captions(path: Path) -> list[Item]:
    items = [
        Item(entry.file, path.parent / entry.file, prompt=entry.caption)
        for entry in read_entries(path, require=("file",))
        if entry.type == "video"
    ]
    if not items:
        raise ValueError(f"{path} lists no video.")
    return items


# --- Reading one --------------------------------------------------------------------


def read(item: Item, selection: Selection) -> UInt8[np.ndarray, "t h w 3"]:
    """The selected frames of a clip.

    Raises:
      UnusableClip: it cannot be read, or has too few frames.
    """
    suffix = item.path.suffix.lower()
    if item.path.is_dir():
        return _pick(_frame_files(item.path), selection, item.name)
    if suffix in ARRAYS:
        return _pick(_array_clip(item), selection, item.name)
    if suffix in PICTURES:
        return _strip(item.path, selection.frames)
    with Clip(item.path, whole=True) as clip:
        times = _times(clip, selection, item.name)
        return clip.frames_at(times)


def _times(clip: Clip, selection: Selection, name: str) -> np.ndarray:
    count, duration = selection.frames, clip.info.duration
    if selection.fps is None:
        first = _first(clip.info.frames, selection, name)
        return clip.times[first : first + count]
    span = (count - 1) / selection.fps
    if span > duration + 1e-3:
        raise UnusableClip(
            f"lasts {duration:.3f} s, shorter than {count} frames at "
            f"{selection.fps:g} fps"
        )
    start = selection.start(max(duration - span, 0), name)
    return start + np.arange(count) / selection.fps


def _first(held: int, selection: Selection, name: str) -> int:
    if held < selection.frames:
        raise UnusableClip(
            f"has {held} frames, fewer than the {selection.frames} that are scored"
        )
    return int(selection.start(held - selection.frames + 1, name))


def _pick(
    frames: np.ndarray | list[Path], selection: Selection, name: str
) -> np.ndarray:
    """Consecutive frames of a clip without presentation times."""
    if selection.fps is not None:
        raise UnusableClip("has no presentation times, which --fps needs")
    first = _first(len(frames), selection, name)
    chosen = frames[first : first + selection.frames]
    if not isinstance(chosen, np.ndarray):
        pictures = [decode_image(path) for path in chosen]
        if len({picture.shape for picture in pictures}) > 1:
            raise UnusableClip("has frames of several sizes")
        chosen = np.stack(pictures)
    return chosen


def _frame_files(folder: Path) -> list[Path]:
    paths = (path for path in folder.iterdir() if path.suffix.lower() in PICTURES)
    return sorted(paths)


def _strip(path: Path, frames: int) -> np.ndarray:
    """Frames that lie side by side, as `media.write_png` writes them."""
    picture = decode_image(path)
    height, width = picture.shape[:2]
    each = width // frames
    if frames > 1 and (
        width % frames or not each / MAX_ASPECT <= height <= MAX_ASPECT * each
    ):
        raise UnusableClip(
            f"of {width}x{height} pixels is not {frames} frames side by side"
        )
    return picture.reshape(height, frames, each, 3).transpose(1, 0, 2, 3)


def _array_clip(item: Item) -> np.ndarray:
    _array_shape(item.path)
    with _ONE_AT_A_TIME:
        array = _array(item.path)
    return array if item.row is None else array[item.row]


_ONE_AT_A_TIME = threading.Lock()


@functools.lru_cache(maxsize=1)
def _array(path: Path) -> np.ndarray:
    """An array, cached for the next clips in it."""
    try:
        with open_npz(path) as file:
            return next(iter(file.values()))
    except ValueError as error:
        raise UnusableClip(f"unreadable array ({error})") from error


def _array_shape(path: Path) -> tuple[int, ...]:
    """The shape of the one array in an .npz, from its header.

    Raises:
      UnusableClip: it is not an array of clips.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if len(names) != 1:
                raise UnusableClip(f"holds {names}, wanted one array of clips")
            with archive.open(names[0]) as file:
                version = np.lib.format.read_magic(file)
                if version not in ((1, 0), (2, 0)):
                    raise UnusableClip("has an unknown version of NumPy's format")
                read_header = getattr(
                    np.lib.format, f"read_array_header_{version[0]}_0"
                )
                shape, _, dtype = read_header(file)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UnusableClip(f"unreadable array ({error})") from error
    if dtype != np.uint8 or len(shape) not in (4, 5) or shape[-1] != 3 or 0 in shape:
        raise UnusableClip(
            f"is {dtype} of shape {shape}, wanted uint8 (clips, frames, height, width, "
            "3)"
        )
    return shape


def crop_and_resize(
    frames: UInt8[np.ndarray, "t h w 3"], view: str, size: resize.Size | None
) -> UInt8[np.ndarray, "t y x 3"]:
    """The frames before the preprocessing of each network.

    Args:
      frames: of a clip.
      view: "native", or "square" for the central square.
      size: height and width to resize to with Pillow's bicubic filter; None does not
        resize.
    """
    if view == "square":
        side = min(frames.shape[1:3])
        frames = resize.center_crop(frames, (side, side))
    if size is not None and frames.shape[1:3] != size:
        frames = resize.bicubic(frames, size)
    return frames
