"""The verb `snapvideo encode_text`: captions to embeddings that training reads."""

import hashlib
import itertools
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float32

from snapvideo_jax import config as configs
from snapvideo_jax import distributed
from snapvideo_jax.data import captions_in, make_sources
from snapvideo_jax.data.sources import alternatives
from snapvideo_jax.flops import flops_per_sample
from snapvideo_jax.metrics import progress
from snapvideo_jax.models.t5 import SIZES, T5Sizes
from snapvideo_jax.options import check_least, check_step_seconds
from snapvideo_jax.sharding import (
    MeshConfig,
    batch_sharding,
    filled_up,
    make_mesh,
    on_host,
)
from snapvideo_jax.text import cache, files
from snapvideo_jax.text.encoder import is_blank
from snapvideo_jax.text.plan import TextPlan, padded_length
from snapvideo_jax.text.t5 import T5Text

logger = logging.getLogger(__name__)

LEAST = {"plan": 1, "tokens": 1, "batch": 1, "shard_captions": 1, "mean_tokens": 1}
"""Smallest values of options on the command line."""


def run(arguments) -> None:
    """`snapvideo encode_text`."""
    with configs.user_errors():
        check(arguments)
        if arguments.plan:
            print(plan(arguments))
            return
        with distributed.processes(vars(arguments), arguments.out):
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
        return alternatives(json.loads(line))
    except (ValueError, AttributeError) as error:
        raise ValueError(
            f"--captions={path}: line {number} is no JSON object with a caption."
        ) from error


def write_cache(
    out: Path,
    captions: Sequence[str],
    encoder: T5Text,
    batch: int,
    shard_captions: int,
) -> None:
    """Adds to a cache the captions that it lacks, shard by shard.

    Captions go in the order of their keys, so that the same captions give the same
    bytes, in one go or in several. Processes take shards in turns, each with an
    encoder on its own devices; what a shard holds and is called is settled before.

    Args:
      out: folder of the cache.
      captions: in any order, blank and equal ones among them.
      encoder: of the embeddings.
      batch: captions encoded at once; filled up to a multiple of a process's devices.
      shard_captions: in every shard but the last.

    Raises:
      ValueError: the encoder cannot be used, or the cache is of another.
    """
    is_writer = jax.process_index() == 0
    by_key = {cache.key_of(x): x for x in captions if not is_blank(x)}
    for shard in cache.shards_of(out):
        for key in cache.read_keys(shard):
            by_key.pop(key.ljust(cache.KEY_BYTES, b"\0"), None)
    keys = sorted(by_key)
    same = "--out has to be a folder that all processes share"
    distributed.agree("What is to be encoded", _digest(keys), same)
    parts = [keys[i : i + shard_captions] for i in range(0, len(keys), shard_captions)]
    todo = list(zip(cache.next_shards(out, len(parts)), parts, strict=True))
    if is_writer:
        cache.keep_manifest(out, encoder.manifest())
    distributed.barrier("settled")  # no shard before all have seen which there are
    logger.info("%d captions to encode for %s.", len(keys), out)
    devices = jax.local_devices()
    mesh = make_mesh(MeshConfig(fsdp=len(devices)), len(devices), devices)
    batch = filled_up(batch, mesh)
    ours = todo[jax.process_index() :: jax.process_count()]
    for path, part in progress(ours, len(ours), name="shard", is_writer=is_writer):
        made = _embeddings([by_key[key] for key in part], encoder, mesh, batch)
        order, embeddings = zip(*made, strict=True)
        cache.write_shard(path, [part[i] for i in order], embeddings)
        logger.debug("%s: %d captions", path.name, len(part))
    distributed.barrier("encoded")


def _embeddings(
    captions: Sequence[str], encoder: T5Text, mesh, batch: int
) -> Iterator[tuple[int, Float32[np.ndarray, "n f"]]]:
    """Number and embedding of each caption; the shorter ones come first."""
    ids, mask = encoder.encode(captions)
    lengths = mask.sum(axis=1)
    embed, place = encoder.on_devices(mesh), batch_sharding(mesh)

    def padded(row: int) -> int:
        return padded_length(int(lengths[row]), encoder.tokens)

    for size, group in itertools.groupby(sorted(range(len(ids)), key=padded), padded):
        rows = list(group)
        for first in range(0, len(rows), batch):
            some = rows[first : first + batch]
            filled = np.resize(some, batch)
            inputs = {"text": ids[filled, :size], "text_mask": mask[filled, :size]}
            out = on_host(embed(jax.device_put(inputs, place))["text"])
            for row, embedding in zip(some, out, strict=False):
                yield row, embedding[: lengths[row]]


def _digest(keys: Sequence[bytes]) -> str:
    return hashlib.sha256(b"".join(keys)).hexdigest()[:8]
