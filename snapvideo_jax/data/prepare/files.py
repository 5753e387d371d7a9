"""One file through all stages of preparation: probed, filtered, cut, encoded.

A file is used whole or not at all: if its last frame does not decode, none of its
clips is kept. So no more is in memory than one file and what was made of it.
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
from snapvideo_jax.data.prepare.encode import ClipWriter, covering_size, smaller_image
from snapvideo_jax.data.records import encode_png
from snapvideo_jax.data.rescale import upright
from snapvideo_jax.data.video import Clip
from snapvideo_jax.io.captions import Fields


class Rejected(Exception):
    """A file that is not kept.

    Args:
        rule: the rule that it broke; "unusable" for what cannot be decoded.
        reason: what it holds and what was wanted.
    """

    def __init__(self, rule: str, reason: str):
        super().__init__(reason)
        self.rule = rule


@dataclasses.dataclass(frozen=True)
class FileInfo:
    """What a file holds.

    frames, fps, seconds: as of `ClipInfo`; 1, 0 and 0 for a picture.
    height, width: in pixels, upright.
    codec: name of the video codec; "" for a picture.
    rotation: quarter turns counterclockwise that make frames upright.
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
    """What was made of a file.

    facts: of the original.
    records: what is written, by stage, see `data.records`.
    too_small: reasons, by the stages that the file does not cover.
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
        Rejected: it breaks a rule or cannot be decoded.
    """
    check_megabytes(config.rules, len(data))
    check_quality(config.quality, entry)
    try:
        make = _prepare_video if entry["type"] == "video" else _prepare_image
        return make(config, entry, data)
    except UnusableClip as error:
        raise Rejected("unusable", str(error)) from error
    except av.FFmpegError as error:
        reason = f"cannot be encoded anew ({error.strerror})"
        raise Rejected("unusable", reason) from error


def check_megabytes(rules: Rules, size: int) -> None:
    """Applies the rule of the file's size, in bytes, so that it need not be read.

    Raises:
        Rejected: the file is too large.
    """
    _check(rules, {"megabytes": size / 1e6})


def check_quality(rules: Sequence[Filter], entry: Fields) -> None:
    """Applies the rules of what a line of captions.jsonl says.

    Raises:
        Rejected: a field is missing, or breaks its rule.
    """
    rule = first_broken(rules, entry)
    if rule:
        raise Rejected(str(rule), rule.reason(entry))


def clip_ranges(frames: int, longest: int) -> list[tuple[int, int]]:
    """First frame and end of the fewest parts of at most ``longest`` frames.

    Together they are all frames, and no two differ by more than one in length.
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
            | {"frames": 1, "data": encode_png(smaller_image(image, *size))}
        ]
        for stage, size in sizes.items()
    }
    return Prepared(facts, records, too_small)


def _prepare_video(config: PrepareConfig, entry: Fields, data: bytes) -> Prepared:
    # Encoding takes its time too; the rules bound what a file may cost.
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
    """What a video holds; its first frame tells how the camera was held."""
    (height, width), turns = upright(next(clip.play()))
    return FileInfo(
        **timing, height=height, width=width, codec=clip.codec, rotation=turns
    )


def _sizes(
    config: PrepareConfig, facts: FileInfo
) -> tuple[dict[str, tuple[int, int]], dict[str, str]]:
    """Sizes for the stages that a file covers, and why it does not cover the others."""
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
    """The line's own fields, and the size that the file has and had."""
    height, width = size
    original = [facts.height, facts.width]
    return {**entry, "height": height, "width": width, "original_size": original}


def _part(file: str, first: int, end: int, frames: int) -> dict[str, Any]:
    """Names a part of a video by its frames."""
    whole = end - first == frames
    name = file if whole else f"{file}#{first}-{end - 1}"
    return {"file": name, "first_frame": first, "frames": end - first}
