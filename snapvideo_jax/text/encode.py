"""`encode_text`: writes a cache of text embeddings."""

import dataclasses
import hashlib
import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float32

from snapvideo_jax.io.progress import progress
from snapvideo_jax.parallel import coordinator
from snapvideo_jax.parallel.sharding import (
    MeshConfig,
    batch_sharding,
    make_mesh,
    round_up_to_devices,
    to_host,
)
from snapvideo_jax.text import cache, files
from snapvideo_jax.text.costs import padded_length
from snapvideo_jax.text.encoder import is_blank
from snapvideo_jax.text.t5 import T5Text

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncodeTextOptions:
    """Options of `encode_text`.

    Attributes:
      encoder: folder of T5: config.json, spiece.model and weights.
      out: folder of the cache.
      tokens: longest caption, in tokens; longer ones are cut. 1 or more.
      batch: captions encoded at once, rounded up to a multiple of a process's devices.
      shard_captions: captions of every shard but the last.
      dtype: of the computation, "bfloat16" or "float32".
    """

    encoder: str | Path
    out: str | Path
    tokens: int = 128
    batch: int = 64
    shard_captions: int = 16384
    dtype: str = "bfloat16"


def encode_text(options: EncodeTextOptions, captions: Iterable[str]) -> None:
    """Adds the embeddings of captions that a cache lacks, shard by shard.

    Captions are sorted by their keys, so that the same captions give the same bytes,
    whether or not the command was interrupted. Processes take turns at shards, each
    with an encoder on its own devices; names and contents of shards do not depend on
    the number of processes.

    Args:
      captions: in any order; blank and repeated ones are skipped.

    Raises:
      ValueError: the encoder cannot be used, or the cache is of another one.
    """
    out, folder = Path(options.out), Path(options.encoder)
    width = files.read_sizes(folder).width
    encoder = T5Text(str(folder), options.tokens, width, options.dtype)
    encoder.check(())
    is_writer = jax.process_index() == 0
    by_key = {cache.key_of(each): each for each in captions if not is_blank(each)}
    for shard in cache.shards_of(out):
        for key in cache.read_keys(shard):
            by_key.pop(key.ljust(cache.KEY_BYTES, b"\0"), None)
    keys = sorted(by_key)
    same = "--out has to be a folder that all processes share"
    coordinator.assert_equal("The list of captions to encode", _digest(keys), same)
    size = options.shard_captions
    parts = [keys[i : i + size] for i in range(0, len(keys), size)]
    todo = list(zip(cache.next_shards(out, len(parts)), parts, strict=True))
    if is_writer:
        cache.begin_cache(out, encoder.manifest())
    coordinator.barrier("settled")  # all have listed the shards; now some may be added
    logger.info("%d captions to encode for %s.", len(keys), out)
    devices = jax.local_devices()
    mesh = make_mesh(MeshConfig(fsdp=len(devices)), len(devices), devices)
    batch = round_up_to_devices(options.batch, mesh)
    ours = todo[jax.process_index() :: jax.process_count()]
    for path, part in progress(ours, len(ours), name="shard", is_writer=is_writer):
        made = _embeddings([by_key[key] for key in part], encoder, mesh, batch)
        order, embeddings = zip(*made, strict=True)
        cache.write_shard(path, [part[i] for i in order], embeddings)
        logger.debug("%s: %d captions", path.name, len(part))
    coordinator.barrier("encoded")


def _embeddings(
    captions: Sequence[str], encoder: T5Text, mesh, batch: int
) -> Iterator[tuple[int, Float32[np.ndarray, "n f"]]]:
    """Index and embedding of each caption, in order of padded length."""
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
            inputs = (ids[filled, :size], mask[filled, :size])
            out = to_host(embed(*jax.device_put(inputs, place)))
            for row, embedding in zip(some, out, strict=False):
                yield row, embedding[: lengths[row]]


def _digest(keys: Sequence[bytes]) -> str:
    return hashlib.sha256(b"".join(keys)).hexdigest()[:8]
