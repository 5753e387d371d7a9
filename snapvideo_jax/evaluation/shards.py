"""A set of clips scored in shards by all processes, and its sums on process 0.

    OUT/generated.json                       what is scored, and how
    OUT/shards/generated-00003-of-00008.npz  the sums of every eighth clip from 3 on

Shards are a matter of the command, not of how many processes there are: any number of
them goes on where any other stopped, and the merged sums are the same.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from snapvideo_jax.evaluation import clips
from snapvideo_jax.evaluation.clips import Item, Selection
from snapvideo_jax.evaluation.scoring import Scorer, Sums
from snapvideo_jax.evaluation.stats import splits_of
from snapvideo_jax.io import resume
from snapvideo_jax.io.files import write_atomically
from snapvideo_jax.io.progress import progress
from snapvideo_jax.parallel import coordinator

logger = logging.getLogger(__name__)


def score_set(
    name: str,
    items: Sequence[Item],
    selection: Selection,
    protocol: dict[str, Any],
    scorer: Scorer,
    splits: tuple[int, int] | None,
    shards: int,
    out: Path,
) -> Sums | None:
    """Scores what is missing of a set, and merges it.

    Args:
      name: "generated" or "real".
      items: all clips of the set.
      selection: of their frames.
      protocol: settings that change a number.
      scorer: has the networks.
      splits: number and seed of the Inception score's splits; None without it.
      shards: parts of the set.
      out: a folder that all processes share.

    Returns:
      The sums of all clips in process 0, None in the others.

    Raises:
      ValueError: the folder was begun with other clips or settings, or no clip can be
        read.
    """
    shards = min(shards, len(items))
    _begin(name, items, selection, protocol, shards, out)
    is_real = name == "real"
    metrics = scorer.metrics(is_real)
    of_clip = splits_of(len(items), *splits) if splits else None
    mine = range(jax.process_index(), shards, jax.process_count())
    missing = [part for part in mine if not _shard(out, name, part, shards).is_file()]
    if len(missing) < len(mine):
        logger.info("%d of %d shards are there.", len(mine) - len(missing), len(mine))
    is_writer = jax.process_index() == 0
    for part in progress(missing, len(missing), name="shard", is_writer=is_writer):
        sums = scorer.score(
            items[part::shards],
            selection,
            None if of_clip is None else of_clip[part::shards],
            is_real,
        )
        write_atomically(_shard(out, name, part, shards), sums.encoded())
    coordinator.barrier(f"scored {name}")
    if not is_writer:
        return None
    return merged(out, name, shards, metrics)


def merged(out: Path, name: str, shards: int, metrics: Sequence[str]) -> Sums:
    """The sums of all shards.

    Raises:
      ValueError: a file is damaged, or no clip could be read.
    """
    first, *others = (
        Sums.read(_shard(out, name, part, shards), metrics) for part in range(shards)
    )
    for sums in others:
        first = first.merge(sums)
    if not first.clips:
        reasons = "; ".join(f"{file}: {why}" for file, why in first.skipped[:5])
        raise ValueError(
            f"None of the {len(first.skipped)} {name} clips can be scored ({reasons})."
        )
    return first


def _begin(name, items, selection, protocol, shards, out: Path) -> None:
    """Notes what is scored; checks it where that was begun before."""
    digest = clips.digest(items, with_time=True)
    coordinator.assert_equal(
        f"The list of {name} clips", digest, "give all processes the same folder"
    )
    settings = {
        "clips": len(items),
        "digest": digest,
        "shards": shards,
        "selection": selection.described(),
        "protocol": protocol,
    }
    if jax.process_index() == 0:
        resume.begin(out / f"{name}.json", settings, f"--out={out}")
    coordinator.barrier(f"begun {name}")


def _shard(out: Path, name: str, part: int, shards: int) -> Path:
    return out / "shards" / f"{name}-{part:05d}-of-{shards:05d}.npz"
