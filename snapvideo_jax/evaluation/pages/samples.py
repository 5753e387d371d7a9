"""Folders of clips with their prompts, as `snapvideo sample` writes them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Sample:
    """A sampled clip.

    clip: its file, NUMBER.mp4.
    prompt: that it was sampled for.
    about: the content of NUMBER.json.
    """

    clip: Path
    prompt: str
    about: dict[str, Any]


def read_samples(folder: Path) -> tuple[list[Sample], list[str]]:
    """The samples of a folder by number, and messages about unusable ones.

    Clips are not opened. Files whose name is not a number are ignored.

    Raises:
        ValueError: there is no such folder.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; use one of `snapvideo sample`.")
    clips = [path for path in folder.glob("*.mp4") if path.stem.isdecimal()]
    samples, wrong = [], []
    for clip in sorted(clips, key=lambda path: (int(path.stem), path.stem)):
        try:
            about = json.loads(clip.with_suffix(".json").read_bytes())
            if not isinstance(about["prompt"], str):
                raise TypeError("prompt is not a string")
            samples.append(Sample(clip, about["prompt"], about))
        except FileNotFoundError:
            wrong.append(f"{clip}: its {clip.stem}.json is missing")
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = "no prompt" if isinstance(error, KeyError) else error
            wrong.append(f"{clip}: its {clip.stem}.json is unusable ({reason})")
    return samples, wrong
