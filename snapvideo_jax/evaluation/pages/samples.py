"""Folders of clips with their prompts, as `snapvideo sample` writes them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Sample:
    """A clip and how it was made.

    clip: its file, NUMBER.mp4.
    prompt: what was asked for.
    about: all that NUMBER.json tells.
    """

    clip: Path
    prompt: str
    about: dict[str, Any]


def read_samples(folder: Path) -> tuple[list[Sample], list[str]]:
    """The clips of a folder by their number, and what is wrong with others, by name.

    No clip is opened. A file that is not named by a number is no sample.

    Raises:
        ValueError: there is no such folder.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; name one of `snapvideo sample`.")
    clips = [path for path in folder.glob("*.mp4") if path.stem.isdecimal()]
    samples, wrong = [], []
    for clip in sorted(clips, key=lambda path: (int(path.stem), path.stem)):
        try:
            about = json.loads(clip.with_suffix(".json").read_bytes())
            if not isinstance(about["prompt"], str):
                raise TypeError("prompt is no text")
            samples.append(Sample(clip, about["prompt"], about))
        except FileNotFoundError:
            wrong.append(f"{clip}: its {clip.stem}.json is missing")
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = "no prompt" if isinstance(error, KeyError) else error
            wrong.append(f"{clip}: its {clip.stem}.json is unusable ({reason})")
    return samples, wrong
