"""The settings of a preparation, checked when they are made."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from snapvideo_jax.data.filters import Filter, parse

MANIFEST = "manifest.json"
"""The file of the output that tells what it holds."""
RESERVED = ("shards", "temporary")
"""Folders of the output that hold no stage."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """A resolution that files are kept at, in a folder of its own.

    height, width: frames are reduced until they just cover this many pixels, in their
        own aspect; training crops and reduces the rest. Even. Nothing is enlarged:
        what does not cover a stage is rejected for it.
    crf: constant rate factor of H.264, 0 (lossless) to 51.
    gop: frames from one key frame to the next; short means fast seeking.
    """

    height: int = 288
    width: int = 512
    crf: int = 18
    gop: int = 12

    def __post_init__(self) -> None:
        """Checks every field.

        Raises:
            ValueError: a field is outside its range.
        """
        for name in ("height", "width"):
            if (value := getattr(self, name)) < 2 or value % 2:
                raise ValueError(
                    f"stages.*.{name}={value} is not an even number above 0, as 4:2:0 "
                    f"chroma wants it; use {max(2, value + value % 2)}."
                )
        if not 0 <= self.crf <= 51:
            raise ValueError(
                f"stages.*.crf={self.crf} is outside 0 to 51; 18 is usual."
            )
        if self.gop < 1:
            raise ValueError(f"stages.*.gop={self.gop} is too small; use at least 1.")


@dataclasses.dataclass(frozen=True)
class Rules:
    """What a file must hold to be kept; 0 is no rule. All are of the upright original.

    Rules of frames, seconds (from the first frame to the last) and frame-rate are for
    videos alone. Aspect is width over height.
    """

    min_frames: int = 16
    min_seconds: float = 0.0
    max_seconds: float = 3600.0
    min_fps: float = 0.0
    max_fps: float = 0.0
    min_height: int = 0
    min_width: int = 0
    min_aspect: float = 0.0
    max_aspect: float = 0.0
    max_megabytes: float = 2048.0

    def __post_init__(self) -> None:
        """Checks every field.

        Raises:
            ValueError: a rule is below 0, or a pair of rules leaves nothing.
        """
        if self.min_frames < 2:
            raise ValueError(
                f"rules.min_frames={self.min_frames} is too small; use at least 2."
            )
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value < 0:
                raise ValueError(f"rules.{field.name}={value} is below 0; 0 is none.")
            low, high = value, getattr(self, field.name.replace("min_", "max_"), 0)
            if 0 < high < low:
                raise ValueError(
                    f"rules.{field.name}={low} is above its max, {high}; nothing would "
                    "be left."
                )


@dataclasses.dataclass(frozen=True)
class PrepareConfig:
    """What is prepared, and how.

    source: folder with files and captions.jsonl, as of `data.sources.FolderSource`;
        whatever Beam can open.
    stages: resolutions by name; each is a folder that can be trained from.
    rules: what is kept, by what a file holds.
    filters: what is kept, by what its line of captions.jsonl says, as of
        `data.filters`, such as "aesthetic>=4.5".
    clip_frames: longer videos are cut into the fewest parts that are no longer, equal
        up to a frame.
    video_shards, image_shards: parts that the output has, and the work is done in.
    """

    source: str
    stages: Mapping[str, Stage]
    rules: Rules = Rules()
    filters: str = ""
    clip_frames: int = 240
    video_shards: int = 64
    image_shards: int = 16

    @property
    def quality(self) -> tuple[Filter, ...]:
        """The rules of ``filters``."""
        return parse(self.filters, "filters")

    def __post_init__(self) -> None:
        """Checks every field.

        Raises:
            ValueError: a field is outside its range, or does not go with another.
        """
        _ = self.quality
        if not self.source:
            raise ValueError(
                "source is empty; set it to a folder with captions.jsonl "
                "(--config.source=FOLDER)."
            )
        if not self.stages:
            raise ValueError("stages is empty; name at least one resolution.")
        for name in self.stages:
            if not re.fullmatch(r"[a-z0-9]\w*", name) or name in RESERVED:
                raise ValueError(
                    f"stages.{name} cannot name a folder of the output; use letters "
                    f"and digits, and none of {RESERVED}."
                )
        if self.clip_frames < 2 * self.rules.min_frames:
            raise ValueError(
                f"clip_frames={self.clip_frames} would cut videos into parts of fewer "
                f"than rules.min_frames={self.rules.min_frames}; use at least "
                f"{2 * self.rules.min_frames}."
            )
        for name in ("video_shards", "image_shards"):
            if not 1 <= getattr(self, name) <= 99999:
                raise ValueError(
                    f"{name}={getattr(self, name)} is outside 1 to 99999; a few times "
                    "the number of workers, or one for each GB, is good."
                )


def build(config: ConfigDict) -> PrepareConfig:
    """The settings of a config file, checked.

    Raises:
      ValueError: names the field, its value, and what would do.
    """
    fields: dict[str, Any] = config.to_dict()
    stages = fields.pop("stages")
    return PrepareConfig(
        **fields
        | {
            "rules": Rules(**fields["rules"]),
            "stages": {name: Stage(**stage) for name, stage in stages.items()},
            "source": absolute(fields["source"]) if fields["source"] else "",
        }
    )


def absolute(path: str) -> str:
    """An absolute local path; a URL such as ``gs://...`` is returned unchanged."""
    return path if "://" in path else str(Path(path).expanduser().absolute())
