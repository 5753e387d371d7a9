"""Writes a cache of text embeddings: every caption of a data set, embedded once."""

import hashlib
import itertools
import logging
from collections.abc import Iterator, Sequence
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
from snapvideo_jax.text import cache
from snapvideo_jax.text.costs import padded_length
from snapvideo_jax.text.encoder import is_blank
from snapvideo_jax.text.t5 import T5Text

logger = logging.getLogger(__name__)


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
    coordinator.assert_equal("What is to be encoded", _digest(keys), same)
    parts = [keys[i : i + shard_captions] for i in range(0, len(keys), shard_captions)]
    todo = list(zip(cache.next_shards(out, len(parts)), parts, strict=True))
    if is_writer:
        cache.begin_cache(out, encoder.manifest())
    coordinator.barrier("settled")  # no shard before all have seen which there are
    logger.info("%d captions to encode for %s.", len(keys), out)
    devices = jax.local_devices()
    mesh = make_mesh(MeshConfig(fsdp=len(devices)), len(devices), devices)
    batch = round_up_to_devices(batch, mesh)
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
            inputs = (ids[filled, :size], mask[filled, :size])
            out = to_host(embed(*jax.device_put(inputs, place)))
            for row, embedding in zip(some, out, strict=False):
                yield row, embedding[: lengths[row]]


def _digest(keys: Sequence[bytes]) -> str:
    return hashlib.sha256(b"".join(keys)).hexdigest()[:8]
