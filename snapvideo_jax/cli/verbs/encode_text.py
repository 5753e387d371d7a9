"""The verb `snapvideo encode_text`: captions to embeddings that training reads."""

import itertools
import json
from pathlib import Path

from snapvideo_jax import config as configs
from snapvideo_jax.cli.options import options
from snapvideo_jax.data import captions_in, make_sources
from snapvideo_jax.io.captions import captions_from
from snapvideo_jax.io.options import check_least, check_step_seconds
from snapvideo_jax.models.flops import flops_per_sample
from snapvideo_jax.models.t5 import SIZES, T5Sizes
from snapvideo_jax.parallel import processes
from snapvideo_jax.parallel.process_settings import ProcessOptions
from snapvideo_jax.text import files
from snapvideo_jax.text.costs import TextPlan
from snapvideo_jax.text.encode import write_cache
from snapvideo_jax.text.encoder import is_blank
from snapvideo_jax.text.t5 import T5Text

LEAST = {"plan": 1, "tokens": 1, "batch": 1, "shard_captions": 1, "mean_tokens": 1}
"""Smallest values of options on the command line."""


def run(arguments) -> None:
    """`snapvideo encode_text`."""
    check(arguments)
    if arguments.plan:
        print(plan(arguments))
        return
    with processes.processes(options(ProcessOptions, arguments), arguments.out):
        encoder = encoder_of(arguments)
        write_cache(
            Path(arguments.out),
            read_captions(arguments),
            encoder,
            arguments.batch,
            arguments.shard_captions,
        )


def check(arguments) -> None:
    """Refuses options that make no sense together, before anything is read.

    Raises:
      ValueError: names them and what would do.
    """
    check_least(arguments, LEAST)
    if arguments.plan:
        if not arguments.config:
            raise ValueError("--plan needs --config FILE; it says what is trained.")
        check_step_seconds(arguments)
        return
    if not arguments.out:
        raise ValueError("--out is missing; the embeddings are kept there.")
    if bool(arguments.captions) == bool(arguments.config):
        raise ValueError(
            "Give --captions FILE, or --config FILE for the captions of its data; one "
            "of them."
        )


def plan(arguments) -> str:
    """The answer to --plan, as text or JSON."""
    experiment = configs.build(configs.load(arguments.config, arguments.overrides))
    batch = experiment.data.batch
    question = TextPlan(
        captions=arguments.plan,
        mean_tokens=arguments.mean_tokens,
        tokens=arguments.tokens or experiment.text.tokens,
        sizes=_sizes(arguments.encoder),
        batch=batch,
        step_seconds=arguments.step_seconds,
        step_flops=batch * flops_per_sample(experiment),
    )
    return json.dumps(question.answer()) if arguments.json else question.describe()


def _sizes(encoder: str) -> T5Sizes:
    if encoder in SIZES:
        return SIZES[encoder]
    if not Path(encoder).is_dir():
        raise ValueError(
            f"--encoder={encoder} is no folder, and none of {', '.join(SIZES)}."
        )
    return files.read_sizes(Path(encoder))


def encoder_of(arguments) -> T5Text:
    """The encoder of the command line.

    Raises:
      ValueError: its folder lacks files, or they are of another kind.
    """
    tokens = arguments.tokens
    if arguments.config:
        config = configs.load(arguments.config, arguments.overrides)
        tokens = tokens or config.text.tokens
    width = files.read_sizes(Path(arguments.encoder)).width
    encoder = T5Text(
        arguments.encoder, tokens or configs.Text.tokens, width, arguments.dtype
    )
    encoder.check(())
    return encoder


def read_captions(arguments) -> list[str]:
    """The captions of a file, or of the data of a config.

    Raises:
      ValueError: the file or the data cannot be read, or holds no caption.
    """
    if arguments.config:
        experiment = configs.build(configs.load(arguments.config, arguments.overrides))
        members = itertools.chain(*make_sources(experiment.data).values())
        return [each for member in members for each in captions_in(member.source)]
    path = Path(arguments.captions)
    if not path.is_file():
        raise ValueError(f"--captions={path}: there is no such file.")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"--captions={path} is not UTF-8 ({error}).") from error
    if path.suffix == ".jsonl":
        pairs = ((number, line) for number, line in enumerate(lines, 1) if line)
        lines = [caption for pair in pairs for caption in _captions(path, *pair)]
    captions = [line for line in lines if not is_blank(line)]
    if not captions:
        raise ValueError(f"--captions={path} holds no caption.")
    return captions


def _captions(path: Path, number: int, line: str) -> tuple[str, ...]:
    """The caption of a line, or all of several."""
    try:
        return captions_from(json.loads(line))
    except (ValueError, AttributeError) as error:
        raise ValueError(
            f"--captions={path}: line {number} is no JSON object with a caption."
        ) from error
