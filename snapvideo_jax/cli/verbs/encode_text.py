"""`snapvideo encode_text`."""

import argparse
import itertools
import json
from collections.abc import Iterable
from pathlib import Path

from ml_collections import ConfigDict

from snapvideo_jax import config as configs
from snapvideo_jax.cli.options import options
from snapvideo_jax.data import captions_in, make_sources
from snapvideo_jax.io.captions import read_entries, read_lines
from snapvideo_jax.models.flops import flops_per_sample
from snapvideo_jax.models.t5 import SIZES, T5Sizes
from snapvideo_jax.parallel import processes
from snapvideo_jax.parallel.process_settings import ProcessOptions
from snapvideo_jax.text import files
from snapvideo_jax.text.costs import TextPlan
from snapvideo_jax.text.encode import EncodeTextOptions, encode_text
from snapvideo_jax.text.encoder import is_blank


def run(arguments: argparse.Namespace) -> None:
    """Encodes captions, or prints a plan of it."""
    if arguments.plan:
        plan = _plan(arguments)
        print(json.dumps(plan.answer()) if arguments.json else plan.describe())
        return
    if not arguments.out:
        raise ValueError("--out is missing; give the folder of the cache.")
    if bool(arguments.captions) == bool(arguments.config):
        raise ValueError(
            "Give --captions FILE, or --config FILE for the captions of its data; one "
            "of them."
        )
    config, tokens = None, arguments.tokens
    if arguments.config:
        config = configs.load(arguments.config, arguments.overrides)
        tokens = tokens or config.text.tokens
    tokens = tokens or EncodeTextOptions.tokens
    chosen = options(EncodeTextOptions, arguments, tokens=tokens)
    with processes.processes(options(ProcessOptions, arguments), arguments.out):
        captions = _of_data(config) if config else _of_file(arguments.captions)
        encode_text(chosen, captions)


def _plan(arguments: argparse.Namespace) -> TextPlan:
    if not arguments.config:
        raise ValueError("--plan needs --config FILE, the config of the training.")
    experiment = configs.build(configs.load(arguments.config, arguments.overrides))
    batch = experiment.data.batch
    return TextPlan(
        captions=arguments.plan,
        mean_tokens=arguments.mean_tokens,
        tokens=arguments.tokens or experiment.text.tokens,
        sizes=_sizes(arguments.encoder),
        batch=batch,
        step_seconds=arguments.step_seconds,
        step_flops=batch * flops_per_sample(experiment),
    )


def _sizes(encoder: str) -> T5Sizes:
    if encoder in SIZES:
        return SIZES[encoder]
    if not Path(encoder).is_dir():
        raise ValueError(
            f"--encoder={encoder} is neither a folder nor one of {', '.join(SIZES)}."
        )
    return files.read_sizes(Path(encoder))


def _of_data(config: ConfigDict) -> Iterable[str]:
    """All captions of the data of a config."""
    members = itertools.chain(*make_sources(configs.build(config).data).values())
    return (each for member in members for each in captions_in(member.source))


def _of_file(path: Path) -> list[str]:
    """The captions of a text file or a .jsonl.

    Raises:
      ValueError: the file cannot be read, or has no captions.
    """
    if path.suffix == ".jsonl" and path.is_file():
        entries = read_entries(path, require=())
        captions = [each for entry in entries for each in entry.captions]
    else:
        captions = read_lines(path, "--captions")
    if all(map(is_blank, captions)):
        raise ValueError(f"--captions={path} has no captions.")
    return captions
