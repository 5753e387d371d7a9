"""The settings of the data pipeline, checked when they are made."""

from dataclasses import dataclass

from snapvideo_jax.data.video import DECODE_SECONDS

SOURCES = ("shapes", "folder", "records", "tfds")


@dataclass(frozen=True)
class DataConfig:
    """What is read, and what a batch looks like.

    source: ``shapes`` (made on the spot), ``folder`` (files and captions.jsonl),
        ``records`` (ArrayRecord files) or ``tfds`` (a prepared TFDS data set).
    root: folder of the data; for shapes where to keep it (empty: the user's cache),
        for tfds its data_dir (empty: TFDS's default).
    tfds_videos, tfds_images, tfds_split: names of the TFDS data sets, and the split.
    frames, height, width: of every video in a batch.
    videos_per_batch, images_per_batch: in every global batch; 0 leaves a kind out.
    min_fps: lowest target rate in 1/s; clips of a lower rate keep theirs.
    max_fps: highest target rate in 1/s; 0 for each clip's own.
    subset: train on the first so many videos only; 0 for all.
    max_skipped_share: end the run when more than this share of the files of a kind
        cannot be used, in 0..1.
    decode_seconds: most that opening and decoding one clip may take. It guards against
        files that hang a reader; far above what good ones take, or batches depend on
        how busy the machine is.
    num_threads: reading threads in each process; 0 reads in the caller's.
    num_workers: reading processes beside the training process; 0 for threads alone.
    prefetch: local batches held ready, in each worker; at least ``num_threads`` are.
    cache_decoded_mb: memory for decoded files, in each worker, in MB; 0 decodes anew
        each time. Batches are the same either way.
    """

    source: str = "shapes"
    root: str = ""
    tfds_videos: str = ""
    tfds_images: str = ""
    tfds_split: str = "train"
    frames: int = 16
    height: int = 36
    width: int = 64
    videos_per_batch: int = 16
    images_per_batch: int = 16
    min_fps: float = 1.0
    max_fps: float = 0.0
    subset: int = 0
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

    def __post_init__(self) -> None:
        """Checks every field.

        Raises:
            ValueError: a field is outside its range, or one needs another.
        """
        for field in ("frames", "height", "width", "prefetch"):
            self._require(field, at_least=1)
        for field in (
            *("videos_per_batch", "images_per_batch", "max_fps", "subset"),
            *("num_threads", "num_workers", "cache_decoded_mb"),
        ):
            self._require(field, at_least=0)
        if self.source not in SOURCES:
            raise ValueError(
                f"data.source={self.source!r} is unknown; use one of {SOURCES}."
            )
        if self.source in ("folder", "records") and not self.root:
            raise ValueError(
                f"data.root is empty, data.source={self.source!r} needs a folder; set "
                f"data.root."
            )
        if not self.batch:
            raise ValueError(
                "data.videos_per_batch=0 and data.images_per_batch=0 make an empty "
                "batch; set one of them to at least 1."
            )
        for kind in ("video", "image"):
            self._require_tfds_name(kind)
        self._require_rates()
        if not 0 <= self.max_skipped_share <= 1:
            raise ValueError(
                f"data.max_skipped_share={self.max_skipped_share} is not a share; use "
                f"0 to 1."
            )

        if not self.decode_seconds > 0:
            raise ValueError(
                f"data.decode_seconds={self.decode_seconds} leaves no time; use a "
                f"value above 0, such as 30."
            )

    def _require(self, field: str, at_least: int) -> None:
        value = getattr(self, field)
        if value < at_least:
            raise ValueError(
                f"data.{field}={value} is too small; use at least {at_least}."
            )

    def _require_tfds_name(self, kind: str) -> None:
        wanted = self.source == "tfds" and getattr(self, f"{kind}s_per_batch")
        if wanted and not getattr(self, f"tfds_{kind}s"):
            raise ValueError(
                f"data.tfds_{kind}s is empty, data.{kind}s_per_batch={wanted} needs a "
                f"data set; set its name or use data.{kind}s_per_batch=0."
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
                f"use data.max_fps=0 for each clip's own rate."
            )
