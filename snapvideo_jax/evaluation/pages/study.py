"""A blinded user study: pairs of clips of two methods, of which raters choose one.

[P] Tab. 6: raters saw a clip of the paper's model next to that of another model for the
same prompt, and chose by four criteria. The first method is compared with every other.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from snapvideo_jax import __version__
from snapvideo_jax.data.container import UnusableClip
from snapvideo_jax.evaluation.pages.matching import (
    ClipFormat,
    FormatLimits,
    probe_all,
    read_clip,
)
from snapvideo_jax.evaluation.pages.page import new_folder, write_page
from snapvideo_jax.evaluation.pages.samples import read_samples
from snapvideo_jax.io import media
from snapvideo_jax.io.files import write_json

FORMAT = 1
"""Of keys and of files with votes."""
QUESTIONS = {
    "photorealism": "Which video looks more like real footage?",
    "text_alignment": "Which video shows better what the text says?",
    "motion_quantity": "Which video has more motion?",
    "motion_quality": "Which video moves more naturally?",
}
"""Criteria of [P] Tab. 6; the wording is ours."""
MAX_PROBLEMS = 5
"""Problems that one error lists."""


@dataclass(frozen=True)
class Pair:
    """Two clips for one prompt, shown side by side.

    id: of the pair in files with votes.
    prompt: shown above both.
    methods: of the left clip (A) and the right one (B).
    files: their random names within the page.
    """

    id: str
    prompt: str
    methods: tuple[str, str]
    files: tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """Options of `build_study`.

    methods: folders of clips by method; the first is compared with the others.
    prompts: that are shown; of a method's clips for a prompt the first is taken.
    out: folder of the page, empty or new.
    key: file of the key, outside of ``out`` (default: OUT.key.json next to it).
    seed: of order, sides and file names, 0 or more.
    fps, seconds, size: limits of the clips' common format, as of `FormatLimits`; the
        size is height and width.
    """

    methods: Mapping[str, str | Path]
    prompts: Sequence[str]
    out: str | Path
    key: str | Path | None = None
    seed: int = 0
    fps: float = 0.0
    seconds: float = 0.0
    size: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Study:
    """A study that was built.

    pairs: number of its pairs.
    format: that all clips have.
    key: file of its key.
    """

    pairs: int
    format: ClipFormat
    key: Path


def build_study(options: StudyOptions) -> Study:
    """Writes the page of a study, and its key, which records who made which clip.

    Raises:
        ValueError: there are fewer than two methods, no prompts or equal ones; a
            method has no clip for a prompt; a clip cannot be read; or ``out`` or
            ``key`` exist.
    """
    limits = FormatLimits(options.fps, options.seconds, *options.size)
    out, prompts = Path(options.out), list(options.prompts)
    key = Path(options.key or out.with_name(f"{out.name}.key.json"))
    methods = {name: Path(folder) for name, folder in options.methods.items()}
    _check_paths(out, key)
    clips = _clips_of(methods, prompts)
    infos, wrong = probe_all(sorted(set(clips.values())))
    _refuse(wrong, "cannot be used; sample them again")
    form = limits.common_format(infos)
    pairs = draw_pairs(list(methods), prompts, options.seed)
    shown = _shown(pairs, form)
    with new_folder(out) as folder:
        _write_clips(folder, pairs, clips, form)
        write_page(folder, "study", shown)
        study = shown["study"]
        write_json(key, _key_of(study, options.seed, list(methods), pairs, clips, form))
    return Study(len(pairs), form, key)


def draw_pairs(methods: Sequence[str], prompts: Sequence[str], seed: int) -> list[Pair]:
    """All pairs in the order in which they are shown.

    Against every other method, the first one is on the left in half of the pairs. Every
    pair has separate files: a file that repeats would be that of the first method.

    Args:
        methods, prompts, seed: as in `StudyOptions`.
    """
    rng = np.random.default_rng(seed)
    ours, *rivals = methods
    pairs = []
    for rival in rivals:
        swapped = rng.permutation((np.arange(len(prompts)) + rng.integers(2)) % 2)
        for prompt, swap in zip(prompts, swapped, strict=True):
            sides = (rival, ours) if swap else (ours, rival)
            files = tuple(f"clips/{rng.bytes(8).hex()}.mp4" for _ in sides)
            pairs.append(Pair(rng.bytes(6).hex(), prompt, sides, files))
    return [pairs[i] for i in rng.permutation(len(pairs))]


def _shown(pairs: Sequence[Pair], form: ClipFormat) -> dict[str, Any]:
    """The data of the page, without the methods."""
    shown = {
        "format": FORMAT,
        "questions": [{"name": k, "text": v} for k, v in QUESTIONS.items()],
        "pairs": [
            {
                "id": pair.id,
                "prompt": pair.prompt,
                "a": pair.files[0],
                "b": pair.files[1],
            }
            for pair in pairs
        ],
        "size": [form.width, form.height],
    }
    digest = hashlib.sha256(json.dumps(shown).encode()).hexdigest()
    return shown | {"study": digest[:12]}


def _key_of(study, seed, methods, pairs, clips, form) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "study": study,
        "version": __version__,
        "seed": seed,
        "methods": methods,
        "questions": list(QUESTIONS),
        "clips": asdict(form),
        "pairs": {
            pair.id: {
                "prompt": pair.prompt,
                "a": pair.methods[0],
                "b": pair.methods[1],
                "files": [str(clips[method, pair.prompt]) for method in pair.methods],
            }
            for pair in pairs
        },
    }


def _clips_of(
    methods: Mapping[str, Path], prompts: Sequence[str]
) -> dict[tuple[str, str], Path]:
    """The clip of every method and prompt."""
    if len(methods) < 2:
        raise ValueError(
            f"{len(methods)} method gives no pairs; give --method NAME=DIR for two or "
            "more."
        )
    if not prompts:
        raise ValueError("There is no prompt; give --prompts, a file with one a line.")
    repeated = [prompt for i, prompt in enumerate(prompts) if prompt in prompts[:i]]
    _refuse([repr(prompt) for prompt in repeated], "twice among the prompts")
    found, wrong = {}, []
    for method, folder in methods.items():
        samples, unusable = read_samples(folder)
        wrong += unusable
        for sample in samples:
            found.setdefault((method, sample.prompt), sample.clip)
    _refuse(wrong, "cannot be used; sample them again")
    lacking = [
        f"{method} ({methods[method]}) has no clip for {prompt!r}"
        for method in methods
        for prompt in prompts
        if (method, prompt) not in found
    ]
    _refuse(lacking, "are needed; sample them, or remove the prompts from the list")
    return {(m, prompt): found[m, prompt] for m in methods for prompt in prompts}


def _write_clips(folder, pairs, clips, form) -> None:
    """Writes every clip under all of its file names."""
    names: dict[Path, list[Path]] = {}
    for pair in pairs:
        for method, file in zip(pair.methods, pair.files, strict=True):
            names.setdefault(clips[method, pair.prompt], []).append(folder / file)
    for clip, (first, *others) in names.items():
        try:
            frames = read_clip(clip, form)
        except UnusableClip as error:
            raise ValueError(f"{clip}: {error}; sample it again.") from error
        media.write_mp4(first, frames, form.fps)
        for other in others:
            shutil.copyfile(first, other)
        # Times of modification would otherwise reveal the method.
        for file in (first, *others):
            os.utime(file, (0, 0))


def _check_paths(out: Path, key: Path) -> None:
    if key.resolve().is_relative_to(out.resolve()):
        raise ValueError(
            f"--key={key} lies within the page, --out={out}, where raters would find "
            "it; use a file elsewhere."
        )
    if key.exists():
        raise ValueError(
            f"--key={key} exists, and votes are worth nothing without it; use a new "
            "file."
        )


def _refuse(problems: Sequence[str], cure: str) -> None:
    """Raises ValueError if there are problems, and names the first ones."""
    if not problems:
        return
    more = len(problems) - MAX_PROBLEMS
    shown = "; ".join(problems[:MAX_PROBLEMS])
    shown += f"; and {more} more" if more > 0 else ""
    raise ValueError(f"{shown}: {cure}.")
