"""Scores a set of clips in shards on all processes; process 0 merges their sums.

    OUT/generated.json                       what is scored, and how
    OUT/shards/generated-00003-of-00008.npz  the sums of every eighth clip from 3 on

The number of shards is an option, independent of the number of processes: any number
of processes can resume what any other started, and the merged sums are the same.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from snapvideo_jax.evaluation import clips
from snapvideo_jax.evaluation.clips import Item
from snapvideo_jax.evaluation.scoring import Scorer, Sums
from snapvideo_jax.evaluation.settings import SPLITS_SEED, EvaluateOptions
from snapvideo_jax.evaluation.stats import assign_splits
from snapvideo_jax.io import saved_settings
from snapvideo_jax.io.files import write_atomically
from snapvideo_jax.io.progress import progress
from snapvideo_jax.parallel import coordinator

logger = logging.getLogger(__name__)


def score_set(
    items: Sequence[Item],
    options: EvaluateOptions,
    scorer: Scorer,
    protocols: Mapping[str, dict[str, Any]],
    is_real: bool,
) -> Sums | None:
    """Scores the missing shards of a set and merges all of them.

    Args:
      items: all clips of the set.
      options: of the evaluation; processes share the folder ``out``.
      scorer: has the networks.
      protocols: the settings that change a value, by metric.
      is_real: whether it is the set of real clips.

    Returns:
      The sums of all clips in process 0, None in the others.

    Raises:
      ValueError: the folder was started with other clips or settings, or no clip can
        be read.
    """
    name, out = ("real" if is_real else "generated"), options.out
    shards = min(options.shards, len(items))
    metrics = options.metrics_of(is_real)
    settings = {
        "clips": len(items),
        "digest": clips.digest(items, with_time=True),
        "shards": shards,
        "selection": options.selection(is_real).described(),
        "protocol": {metric: protocols[metric] for metric in metrics},
    }
    coordinator.assert_equal(
        f"The list of {name} clips",
        settings["digest"],
        "give all processes the same folder",
    )
    if jax.process_index() == 0:
        saved_settings.begin(out / f"{name}.json", settings, f"--out={out}")
    coordinator.barrier(f"started {name}")
    splits = None
    if "is" in metrics:
        splits = assign_splits(len(items), options.splits, SPLITS_SEED)
    mine = range(jax.process_index(), shards, jax.process_count())
    missing = [part for part in mine if not _shard(out, name, part, shards).is_file()]
    if len(missing) < len(mine):
        logger.info(
            "%d of %d shards are complete.", len(mine) - len(missing), len(mine)
        )
    is_writer = jax.process_index() == 0
    for part in progress(missing, len(missing), name="shard", is_writer=is_writer):
        some = slice(part, None, shards)
        sums = scorer.score(
            items[some], is_real, None if splits is None else splits[some]
        )
        write_atomically(_shard(out, name, part, shards), sums.encoded())
    coordinator.barrier(f"scored {name}")
    return _merged(out, name, shards, metrics) if is_writer else None


def _merged(out: Path, name: str, shards: int, metrics: Sequence[str]) -> Sums:
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


def _shard(out: Path, name: str, part: int, shards: int) -> Path:
    return out / "shards" / f"{name}-{part:05d}-of-{shards:05d}.npz"
