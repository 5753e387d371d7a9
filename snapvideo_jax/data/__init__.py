"""Captioned videos and images, from files to batches. NumPy only, never a device."""

from snapvideo_jax.data.config import DataConfig, DataSet, Part
from snapvideo_jax.data.container import UnusableClip
from snapvideo_jax.data.image import decode_image
from snapvideo_jax.data.mixture import Member, make_sources
from snapvideo_jax.data.pipeline import (
    captions_of,
    check_sources,
    make_dataset,
    make_joint_source,
    seek,
    split_dataset,
)
from snapvideo_jax.data.sequence import JointSource
from snapvideo_jax.data.sources import (
    FolderSource,
    RecordSource,
    Sample,
    TFDSSource,
    captions_in,
)
from snapvideo_jax.data.unusable import Skipped
from snapvideo_jax.data.video import ClipInfo, decode_at, probe

__all__ = [
    "ClipInfo",
    "DataConfig",
    "DataSet",
    "FolderSource",
    "JointSource",
    "Member",
    "Part",
    "RecordSource",
    "Sample",
    "Skipped",
    "TFDSSource",
    "UnusableClip",
    "captions_in",
    "captions_of",
    "check_sources",
    "decode_at",
    "decode_image",
    "make_dataset",
    "make_joint_source",
    "make_sources",
    "probe",
    "seek",
    "split_dataset",
]
