"""Settings of `snapvideo prepare`, validated on construction."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from snapvideo_jax.data.filters import Filter, parse

MANIFEST = "manifest.json"
"""Name of the file that summarizes the output."""
RESERVED = ("shards", "temporary")
"""Folders of the output that cannot be the name of a stage."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """A resolution of the output, in a separate folder.

    height, width: frames are reduced to the smallest size of their aspect ratio that
        covers this one, in pixels; training crops and reduces them further. Even. Files
        are not enlarged: one that does not cover a stage is rejected for it.
    crf: constant rate factor of H.264, 0 (lossless) to 51.
    gop: frames from one key frame to the next; a small number makes seeking fast.
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
                    f"stages.*.{name}={value} is not an even number above 0, which "
                    f"4:2:0 chroma needs; use {max(2, value + value % 2)}."
                )
        if not 0 <= self.crf <= 51:
            raise ValueError(
                f"stages.*.crf={self.crf} is outside 0 to 51; 18 is usual."
            )
        if self.gop < 1:
            raise ValueError(f"stages.*.gop={self.gop} is too small; use at least 1.")


@dataclasses.dataclass(frozen=True)
class Rules:
    """Limits that files must meet, of the original as displayed; 0 disables a limit.

    The limits of frames, seconds (from the first frame to the last) and frame-rate are
    for videos only. Aspect is width over height.
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
            ValueError: a limit is below 0, or a minimum is above its maximum.
        """
        if self.min_frames < 2:
            raise ValueError(
                f"rules.min_frames={self.min_frames} is too small; use at least 2."
            )
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value < 0:
                raise ValueError(
                    f"rules.{field.name}={value} is below 0; 0 disables it."
                )
            low, high = value, getattr(self, field.name.replace("min_", "max_"), 0)
            if 0 < high < low:
                raise ValueError(
                    f"rules.{field.name}={low} is above its max, {high}; no file would "
                    "remain."
                )


@dataclasses.dataclass(frozen=True)
class PrepareConfig:
    """Input, output and rules of a preparation.

    source: folder with files and captions.jsonl, as of `data.sources.FolderSource`, on
        any file system that Beam supports.
    stages: resolutions by name; each is a folder that training can read.
    rules: limits of size, length and frame-rate.
    filters: rules on the fields of a line of captions.jsonl, as of `data.filters`, such
        as "aesthetic>=4.5".
    clip_frames: longer videos are cut into the fewest clips of at most this length,
        equal up to a frame.
    video_shards, image_shards: number of shards of the output, the units of work.
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
                    f"stages.{name} cannot be the name of a folder of the output; use "
                    f"letters and digits, and none of {RESERVED}."
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
                    f"{name}={getattr(self, name)} is outside 1 to 99999; use a few "
                    "times the number of workers, or one shard per GB."
                )


def build(config: ConfigDict) -> PrepareConfig:
    """The settings of a config file.

    Raises:
      ValueError: names the field, its value and valid values.
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
