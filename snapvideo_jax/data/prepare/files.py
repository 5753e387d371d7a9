"""Prepares one file: probes it, applies the rules, cuts and encodes it for each stage.

If the last frame of a file does not decode, none of its clips are used. A worker holds
one file and its encoded clips in memory.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import av

from snapvideo_jax.data.container import UnusableClip
from snapvideo_jax.data.filters import Filter, first_broken
from snapvideo_jax.data.image import decode_image
from snapvideo_jax.data.prepare.config import PrepareConfig, Rules
from snapvideo_jax.data.prepare.encode import ClipWriter, covering_size
from snapvideo_jax.data.records import encode_png
from snapvideo_jax.data.rescale import upright
from snapvideo_jax.data.transforms import resize
from snapvideo_jax.data.video import Clip
from snapvideo_jax.io.captions import Fields


class Rejected(Exception):
    """A file that is not used.

    Args:
        rule: the rule that it fails; "unusable" where it cannot be decoded.
        reason: its value and the limit.
    """

    def __init__(self, rule: str, reason: str):
        super().__init__(reason)
        self.rule = rule


@dataclasses.dataclass(frozen=True)
class FileInfo:
    """Size and timing of a file.

    frames, fps, seconds: as of `ClipInfo`; 1, 0 and 0 for an image.
    height, width: in pixels, as displayed.
    codec: name of the video codec; "" for an image.
    rotation: quarter turns counterclockwise from the stored to the displayed frame.
    """

    frames: int
    fps: float
    seconds: float
    height: int
    width: int
    codec: str = ""
    rotation: int = 0


@dataclasses.dataclass
class Prepared:
    """The records made from a file.

    facts: size and timing of the original.
    records: by stage, see `data.records`.
    too_small: for each stage that the file does not cover, the reason.
    """

    facts: FileInfo
    records: dict[str, list[dict[str, Any]]]
    too_small: dict[str, str]


def prepare_file(config: PrepareConfig, entry: Fields, data: bytes) -> Prepared:
    """Probes a file, applies the rules, and makes the records of every stage.

    Args:
        config: rules, stages and lengths.
        entry: the file's line in captions.jsonl.
        data: its content.

    Raises:
        Rejected: it fails a rule or cannot be decoded.
    """
    check_megabytes(config.rules, len(data))
    check_quality(config.quality, entry)
    try:
        make = _prepare_video if entry["type"] == "video" else _prepare_image
        return make(config, entry, data)
    except UnusableClip as error:
        raise Rejected("unusable", str(error)) from error
    except av.FFmpegError as error:
        reason = f"cannot be encoded ({error.strerror})"
        raise Rejected("unusable", reason) from error


def check_megabytes(rules: Rules, size: int) -> None:
    """Applies the rule of the file's size in bytes, before the file is read.

    Raises:
        Rejected: the file is too large.
    """
    _check(rules, {"megabytes": size / 1e6})


def check_quality(rules: Sequence[Filter], entry: Fields) -> None:
    """Applies ``filters`` to a line of captions.jsonl.

    Raises:
        Rejected: a field is missing, or fails its rule.
    """
    rule = first_broken(rules, entry)
    if rule:
        raise Rejected(str(rule), rule.reason(entry))


def clip_ranges(frames: int, longest: int) -> list[tuple[int, int]]:
    """First frame and end of the fewest clips of at most ``longest`` frames.

    Together they contain all frames, and their lengths differ by at most one.
    """
    parts = -(-frames // longest)
    bounds = [part * frames // parts for part in range(parts + 1)]
    return list(itertools.pairwise(bounds))


def _check(rules: Rules, measured: Mapping[str, float]) -> None:
    for field in dataclasses.fields(rules):
        side, name = field.name.split("_", 1)
        limit, value = getattr(rules, field.name), measured.get(name)
        if not limit or value is None:
            continue
        if value < limit if side == "min" else value > limit:
            raise Rejected(
                field.name, f"{name} is {value:g}, rules.{field.name}={limit:g}"
            )


def _check_size(rules: Rules, facts: FileInfo) -> None:
    measured = {"height": facts.height, "width": facts.width}
    _check(rules, measured | {"aspect": facts.width / facts.height})


def _prepare_image(config: PrepareConfig, entry: Fields, data: bytes) -> Prepared:
    image = decode_image(data)
    facts = FileInfo(1, 0.0, 0.0, *image.shape[:2])
    _check_size(config.rules, facts)
    sizes, too_small = _sizes(config, facts)
    records = {
        stage: [
            _record(entry, facts, size)
            | {"frames": 1, "data": encode_png(resize(image[None], *size)[0])}
        ]
        for stage, size in sizes.items()
    }
    return Prepared(facts, records, too_small)


def _prepare_video(config: PrepareConfig, entry: Fields, data: bytes) -> Prepared:
    # No time limit: encoding takes long too, and the rules bound the cost of a file.
    with Clip(data, seconds=math.inf, whole=True) as clip:
        timing = {
            "frames": clip.info.frames,
            "seconds": clip.info.duration,
            "fps": clip.info.fps,
        }
        _check(config.rules, timing)
        facts = _upright(clip, timing)
        _check_size(config.rules, facts)
        sizes, too_small = _sizes(config, facts)
        records: dict[str, list[dict[str, Any]]] = {stage: [] for stage in sizes}
        frames = clip.play()
        for first, end in (
            clip_ranges(facts.frames, config.clip_frames) if sizes else ()
        ):
            writers = {
                stage: ClipWriter(
                    config.stages[stage],
                    *size,
                    facts.rotation,
                    facts.fps,
                    Fraction(clip.time_base),
                )
                for stage, size in sizes.items()
            }
            for frame in itertools.islice(frames, end - first):
                for writer in writers.values():
                    writer.add(frame)
            for stage, writer in writers.items():
                made = _record(entry, facts, sizes[stage])
                made |= _part(entry["file"], first, end, facts.frames)
                lasts = float(clip.times[end - 1] - clip.times[first])
                made |= {"fps": (end - first - 1) / lasts, "data": writer.close()}
                records[stage].append(made)
    return Prepared(facts, records, too_small)


def _upright(clip: Clip, timing: Mapping[str, Any]) -> FileInfo:
    """Size and timing of a video; its first frame has the rotation."""
    (height, width), turns = upright(next(clip.play()))
    return FileInfo(
        **timing, height=height, width=width, codec=clip.codec, rotation=turns
    )


def _sizes(
    config: PrepareConfig, facts: FileInfo
) -> tuple[dict[str, tuple[int, int]], dict[str, str]]:
    """Sizes for the stages that a file covers, and reasons for the others."""
    sizes, too_small = {}, {}
    for name, stage in config.stages.items():
        size = covering_size(stage, facts.height, facts.width)
        if size:
            sizes[name] = size
        else:
            too_small[name] = (
                f"{facts.height}x{facts.width} pixels do not cover stages.{name} of "
                f"{stage.height}x{stage.width}"
            )
    return sizes, too_small


def _record(entry: Fields, facts: FileInfo, size: tuple[int, int]) -> dict[str, Any]:
    """The fields of the line, with the size of the clip and of the original."""
    height, width = size
    original = [facts.height, facts.width]
    return {**entry, "height": height, "width": width, "original_size": original}


def _part(file: str, first: int, end: int, frames: int) -> dict[str, Any]:
    """Name and frames of a clip of a video."""
    whole = end - first == frames
    name = file if whole else f"{file}#{first}-{end - 1}"
    return {"file": name, "first_frame": first, "frames": end - first}
