"""The data sets of a run, each with its source, weight and target frame-rates."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

from snapvideo_jax.data.config import DataConfig, DataSet
from snapvideo_jax.data.schedule import Schedule
from snapvideo_jax.data.sources import FolderSource, RecordSource, Source, TFDSSource
from snapvideo_jax.io.captions import KINDS, Kind

DEFAULT_CACHE = Path("~/.cache/snapvideo_jax")


@dataclass(frozen=True)
class Member:
    """The samples of one kind of one data set.

    source: reads them.
    name: of the data set in ``data.mixture``; "" for a single data set.
    rates: lowest and highest target rate, in 1/s.
    weight: among the data sets of this kind.
    """

    source: Source
    name: str = ""
    rates: tuple[float, float] = (1.0, 0.0)
    weight: float = 1.0

    def named(self, file: str) -> str:
        """Name of one of its files in messages and lists."""
        return f"{self.name}: {file}" if self.name else file


@dataclass(frozen=True)
class SizePool:
    """The files that samples of one kind and one batch size are drawn from.

    members: data sets that have such files.
    files: of each member, indices of the files of this size.
    """

    members: Sequence[Member]
    files: Sequence[range | Int[np.ndarray, "_"]]

    def schedule(self) -> Schedule:
        """The order in which the members are drawn from.

        Raises:
            ValueError: the weights need too long a table.
        """
        kind = self.members[0].source.kind
        weights = [member.weight for member in self.members]
        return Schedule(weights, f"data.mixture: {kind}_weight")


def make_sources(config: DataConfig) -> dict[Kind, list[Member]]:
    """The data sets of each kind in a batch, ordered by name.

    Raises:
        ValueError: the data of a source are missing or malformed, or its filters drop
            every file; the message names the data set of a mixture.
    """
    kinds = [kind for kind in KINDS if getattr(config, f"{kind}s_per_batch")]
    side = max(max(height, width) for _, height, width in config.sizes)
    members: dict[Kind, list[Member]] = {}
    for kind in kinds:
        members[kind] = []
        for name, (data_set, weight) in config.data_sets(kind).items():
            try:
                source = _make_source(data_set, kind, side)
            except ValueError as error:
                where = f"data.mixture.{name}: " if name else ""
                raise ValueError(f"{where}{error}") from error
            members[kind].append(Member(source, name, data_set.rates, weight))
    return members


def _make_source(data_set: DataSet, kind: Kind, side: int) -> Source:
    limit = data_set.subset if kind == "video" else 0
    if data_set.source == "tfds":
        return TFDSSource(
            getattr(data_set, f"tfds_{kind}s"),
            kind,
            data_set.tfds_split,
            data_set.root,
            limit,
            data_set.rules,
        )
    root, source = data_set.root, RecordSource
    if data_set.source == "folder":
        source = FolderSource
    elif data_set.source == "shapes":
        # Only this source generates its data.
        from snapvideo_jax.data.shapes import dataset

        # At least as large as any batch size; encoders need even sides.
        size = max(dataset.SIZE, side + side % 2)
        root = dataset.build(Path(root or DEFAULT_CACHE).expanduser(), size=size)
    return source(root, kind, limit, data_set.rules)
