"""Settings of the data pipeline, validated on construction."""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass

from snapvideo_jax.data.filters import Filter, parse
from snapvideo_jax.data.video import DECODE_SECONDS

SOURCES = ("shapes", "folder", "records", "tfds")
MIXTURE = "mixture"

ClipSize = tuple[int, int, int]
"""Frames, height and width."""


@dataclass(frozen=True)
class DataSet:
    """Source of samples, their selection and their target frame-rates.

    source: ``shapes`` (generated on the first run), ``folder`` (files and
        captions.jsonl), ``records`` (ArrayRecord files) or ``tfds`` (a prepared TFDS
        data set).
    root: folder of the data; for shapes the folder to generate it in (empty: the user's
        cache), for tfds its data_dir (empty: TFDS's default).
    tfds_videos, tfds_images, tfds_split: names of the TFDS data sets, and the split.
    min_fps: lowest target rate in 1/s; clips of a lower rate retain theirs.
    max_fps: highest target rate in 1/s; 0 for that of each clip.
    subset: read only the first so many videos; 0 for all.
    filters: rules on the metadata of files, as of `data.filters`.
    """

    source: str = "shapes"
    root: str = ""
    tfds_videos: str = ""
    tfds_images: str = ""
    tfds_split: str = "train"
    min_fps: float = 1.0
    max_fps: float = 0.0
    subset: int = 0
    filters: str = ""

    def __post_init__(self) -> None:
        """Checks every field.

        Raises:
            ValueError: a field is outside its range, or one needs another.
        """
        if self.source not in SOURCES:
            raise ValueError(
                f"data.source={self.source!r} is unknown; use one of {SOURCES}."
            )
        if self.source in ("folder", "records") and not self.root:
            raise ValueError(
                f"data.root is empty, data.source={self.source!r} needs a folder; set "
                f"data.root."
            )
        for field in ("max_fps", "subset"):
            self._require(field, at_least=0)
        self._require_rates()
        parse(self.filters, "data.filters")

    @property
    def rates(self) -> tuple[float, float]:
        """Lowest and highest target rate."""
        return self.min_fps, self.max_fps

    @property
    def rules(self) -> tuple[Filter, ...]:
        """The rules of ``filters``."""
        return parse(self.filters, "data.filters")

    def _require(self, field: str, at_least: int) -> None:
        value = getattr(self, field)
        if value < at_least:
            raise ValueError(
                f"data.{field}={value} is too small; use at least {at_least}."
            )

    def _require_tfds_name(self, kind: str, wanted: str) -> None:
        """Checks that the data set of a kind is named, where samples are wanted."""
        if self.source == "tfds" and not getattr(self, f"tfds_{kind}s"):
            raise ValueError(
                f"data.tfds_{kind}s is empty, {wanted} needs a data set; set its name "
                f"or use {wanted.partition('=')[0]}=0."
            )

    def _require_rates(self) -> None:
        if not self.min_fps > 0:
            raise ValueError(
                f"data.min_fps={self.min_fps} is not a rate; use a value above 0, "
                f"such as 1.0."
            )
        if self.max_fps and self.max_fps < self.min_fps:
            raise ValueError(
                f"data.max_fps={self.max_fps} is below data.min_fps={self.min_fps}; "
                f"use data.max_fps=0 for the rate of each clip."
            )


@dataclass(frozen=True)
class Part(DataSet):
    """A data set of a mixture.

    video_weight, image_weight: of its videos among all videos, and of its images
        among all images; 0 excludes a kind. Only ratios matter.
    """

    video_weight: float = 0.0
    image_weight: float = 0.0

    def __post_init__(self) -> None:
        """As `DataSet`.

        Raises:
            ValueError: as of `DataSet`, or a weight is negative or all are 0.
        """
        super().__post_init__()
        weights = {"video": self.video_weight, "image": self.image_weight}
        for kind, weight in weights.items():
            if weight < 0:
                raise ValueError(f"{kind}_weight={weight:g} is below 0; use 0 or more.")
            if weight:
                self._require_tfds_name(kind, f"{kind}_weight={weight:g}")
        if not any(weights.values()):
            raise ValueError(
                "video_weight=0 and image_weight=0 exclude the data set; set one above "
                "0, or remove the data set."
            )


@dataclass(frozen=True)
class DataConfig(DataSet):
    """Sources and composition of the batches.

    source, root, tfds_videos, tfds_images, tfds_split, min_fps, max_fps, subset,
        filters: of a single data set, see `DataSet`; or source is ``mixture``.
    mixture: data sets by name, each a `Part`.
    frames, height, width: of every video in a batch.
    buckets: further sizes (frames, height, width). Each batch has one size, and each
        file is assigned to the size nearest in aspect ratio that it has frames for.
    bucket_weights: relative frequency of each size, that of ``frames``, ``height`` and
        ``width`` first; only ratios matter. Empty for equal frequencies.
    videos_per_batch, images_per_batch: in every global batch; 0 excludes a kind.
    max_skipped_share: share of the files of a kind that may be unusable, in 0..1; above
        it the run ends with an error.
    decode_seconds: time limit for opening and decoding one clip, a guard against files
        that hang a reader. Choose it far above the usual time: otherwise batches depend
        on the load of the machine.
    num_threads: reading threads in each process; 0 reads in the caller's thread.
    num_workers: worker processes for reading; 0 for threads only.
    prefetch: local batches buffered in each worker, at least ``num_threads``.
    cache_decoded_mb: memory for decoded files in each worker, in MB; 0 disables the
        cache. Batches are the same either way.
    """

    mixture: Mapping[str, Part] = dataclasses.field(
        default_factory=dict, hash=False, metadata={"of": Part}
    )
    frames: int = 16
    height: int = 36
    width: int = 64
    buckets: tuple[tuple[int, ...], ...] = ()
    bucket_weights: tuple[float, ...] = ()
    videos_per_batch: int = 16
    images_per_batch: int = 16
    max_skipped_share: float = 0.5
    decode_seconds: float = DECODE_SECONDS
    num_threads: int = 4
    num_workers: int = 0
    prefetch: int = 4
    cache_decoded_mb: int = 0

    @property
    def batch(self) -> int:
        """Samples in a global batch."""
        return self.videos_per_batch + self.images_per_batch

    @property
    def sizes(self) -> tuple[ClipSize, ...]:
        """All sizes that a batch may have."""
        return (self.frames, self.height, self.width), *self.buckets

    @property
    def size_weights(self) -> tuple[float, ...]:
        """Relative frequency of each of `sizes`."""
        return self.bucket_weights or (1.0,) * len(self.sizes)

    def data_sets(self, kind: str) -> dict[str, tuple[DataSet, float]]:
        """Data sets and weights of a kind by name; "" is the name of a single one."""
        if self.source != MIXTURE:
            return {"": (self, 1.0)}
        return {
            name: (part, weight)
            for name, part in sorted(self.mixture.items())
            if (weight := getattr(part, f"{kind}_weight"))
        }

    def __post_init__(self) -> None:
        """Checks every field.

        Raises:
            ValueError: a field is outside its range, or one needs another.
        """
        for field in ("frames", "height", "width", "prefetch"):
            self._require(field, at_least=1)
        for field in (
            *("videos_per_batch", "images_per_batch"),
            *("num_threads", "num_workers", "cache_decoded_mb"),
        ):
            self._require(field, at_least=0)
        if not self.batch:
            raise ValueError(
                "data.videos_per_batch=0 and data.images_per_batch=0 make an empty "
                "batch; set one of them to at least 1."
            )
        if self.source == MIXTURE:
            self._require_mixture()
        else:
            self._require_single()
        self._require_buckets()
        if not 0 <= self.max_skipped_share <= 1:
            raise ValueError(
                f"data.max_skipped_share={self.max_skipped_share} is not a share; use "
                f"0 to 1."
            )
        if not self.decode_seconds > 0:
            raise ValueError(
                f"data.decode_seconds={self.decode_seconds} is not a time limit; use a "
                f"value above 0, such as 30."
            )

    def _require_single(self) -> None:
        if self.source not in SOURCES:
            raise ValueError(
                f"data.source={self.source!r} is unknown; use one of "
                f"{(*SOURCES, MIXTURE)}."
            )
        if self.mixture:
            raise ValueError(
                f"data.mixture names {sorted(self.mixture)}, but data.source="
                f"{self.source!r} is a single data set; use data.source={MIXTURE!r}."
            )
        super().__post_init__()
        for kind in ("video", "image"):
            if wanted := getattr(self, f"{kind}s_per_batch"):
                self._require_tfds_name(kind, f"data.{kind}s_per_batch={wanted}")

    def _require_mixture(self) -> None:
        for name in self.mixture:
            if not re.fullmatch(r"[a-z0-9_]+", name):
                raise ValueError(
                    f"data.mixture.{name} is not a valid name; use lower-case letters, "
                    "digits and _."
                )
        for field in dataclasses.fields(DataSet):
            value = getattr(self, field.name)
            if field.name != "source" and value != field.default:
                raise ValueError(
                    f"data.{field.name}={value!r} is for a single data set; with "
                    f"data.source={MIXTURE!r} set data.mixture.NAME.{field.name}."
                )
        for kind in ("video", "image"):
            wanted = getattr(self, f"{kind}s_per_batch")
            if wanted and not self.data_sets(kind):
                raise ValueError(
                    f"data.mixture has no data set of {kind}s, data.{kind}s_per_batch="
                    f"{wanted} needs one; set {kind}_weight of one, or use "
                    f"data.{kind}s_per_batch=0."
                )

    def _require_buckets(self) -> None:
        for size in self.buckets:
            whole = isinstance(size, tuple) and len(size) == 3
            if not whole or not all(isinstance(n, int) and n > 0 for n in size):
                raise ValueError(
                    f"data.buckets has {size!r}; a size is (frames, height, width), "
                    "each at least 1."
                )
        if len(set(self.sizes)) < len(self.sizes):
            raise ValueError(
                f"data.buckets={self.buckets} has a size twice, including that of "
                "data.frames, height and width; remove one."
            )
        weights = self.bucket_weights
        if weights and (len(weights) != len(self.sizes) or not min(weights) > 0):
            raise ValueError(
                f"data.bucket_weights={weights} are not {len(self.sizes)} numbers "
                "above 0: one for data.frames, height and width, and one for each of "
                "data.buckets."
            )
