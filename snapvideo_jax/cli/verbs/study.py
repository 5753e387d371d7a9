"""The verb `snapvideo study`: its page made, and the votes of raters counted."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from snapvideo_jax.evaluation.pages.matching import Wish
from snapvideo_jax.evaluation.pages.study import build_study
from snapvideo_jax.evaluation.pages.tally import describe, tally
from snapvideo_jax.evaluation.pages.votes import read_key, read_votes
from snapvideo_jax.io.captions import read_prompts
from snapvideo_jax.io.options import check_least


def run(arguments: argparse.Namespace) -> None:
    """`snapvideo study build` and `snapvideo study tally`."""
    check_least(arguments, {"seed": 0, "resamples": 1})
    if arguments.action == "build":
        _build(arguments)
    else:
        _tally(arguments)


def _build(arguments: argparse.Namespace) -> None:
    out = Path(arguments.out)
    key = Path(arguments.key or out.with_name(f"{out.name}.key.json"))
    methods = named_folders(arguments.method)
    prompts = read_prompts(Path(arguments.prompts))
    height, width = arguments.size
    wish = Wish(arguments.fps, arguments.seconds, height, width)
    alike = build_study(methods, prompts, out, key, arguments.seed, wish)
    print(
        f"{(len(methods) - 1) * len(prompts)} pairs of {alike.width}x{alike.height} "
        f"pixels, {alike.frames} frames at {alike.fps:g} a second: {out}/index.html. "
        f"Keep {key} to yourself."
    )


def _tally(arguments: argparse.Namespace) -> None:
    key = read_key(Path(arguments.key))
    votes = read_votes([Path(path) for path in arguments.votes], key)
    result = tally(votes, key, arguments.seed, arguments.resamples)
    if arguments.json:
        json.dump(result, sys.stdout, indent=2)
        print()
    else:
        print(describe(result))


def named_folders(items: Sequence[str]) -> dict[str, Path]:
    """Folders by name, from texts as NAME=DIR.

    Raises:
        ValueError: a text is none, or a name comes twice.
    """
    folders: dict[str, Path] = {}
    for item in items:
        name, found, folder = item.partition("=")
        if not found or not name or not folder:
            raise ValueError(
                f"--method={item!r} is not NAME=DIR, as ours=samples/ours."
            )
        if name in folders:
            raise ValueError(f"--method={item!r}: {name!r} is named twice.")
        folders[name] = Path(folder)
    return folders
