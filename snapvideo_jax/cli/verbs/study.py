"""`snapvideo study build` and `snapvideo study tally`."""

import argparse
import json

from snapvideo_jax.cli.options import options
from snapvideo_jax.evaluation.pages.study import StudyOptions, build_study
from snapvideo_jax.evaluation.pages.tally import describe, tally
from snapvideo_jax.evaluation.pages.votes import read_key, read_votes
from snapvideo_jax.io.captions import read_prompts


def run(arguments: argparse.Namespace) -> None:
    """Builds the page of a study, or prints its tally."""
    if arguments.action == "build":
        _build(arguments)
    else:
        _tally(arguments)


def _build(arguments: argparse.Namespace) -> None:
    methods = dict(arguments.method)
    for name in methods:
        if sum(name == other for other, _ in arguments.method) > 1:
            raise ValueError(f"--method: {name!r} is named twice; use another name.")
    prompts = read_prompts(arguments.prompts)
    study = build_study(
        options(StudyOptions, arguments, methods=methods, prompts=prompts)
    )
    form = study.format
    print(
        f"{study.pairs} pairs of {form.width}x{form.height} pixels, {form.frames} "
        f"frames at {form.fps:g} a second: {arguments.out}/index.html. Do not share "
        f"{study.key} with raters."
    )


def _tally(arguments: argparse.Namespace) -> None:
    key = read_key(arguments.key)
    votes = read_votes(arguments.votes, key)
    result = tally(votes, key, arguments.seed, arguments.resamples)
    print(json.dumps(result, indent=2) if arguments.json else describe(result))
