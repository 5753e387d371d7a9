"""TFDS data sets from local copies, without TensorFlow; `TFDSSource` reads them.

from snapvideo_jax.data.builders import build

build("ucf101_clips/split01", source="UCF", data_dir="DATA")
# snapvideo train ... --config.data.source=tfds --config.data.root=DATA
#   --config.data.tfds_videos=ucf101_clips/split01
"""

from pathlib import Path

import tensorflow_datasets as tfds

from snapvideo_jax.data.builders.captioned_clips import CaptionedClips
from snapvideo_jax.data.builders.elements import element_spec
from snapvideo_jax.data.builders.msr_vtt import MsrVttClips
from snapvideo_jax.data.builders.ucf101 import Ucf101Clips

BUILDERS = {kind.name: kind for kind in (CaptionedClips, MsrVttClips, Ucf101Clips)}

__all__ = [
    "BUILDERS",
    "CaptionedClips",
    "MsrVttClips",
    "Ucf101Clips",
    "build",
    "element_spec",
]


def build(
    name: str, source: str | Path, data_dir: str | Path, shards: int | None = None
) -> tfds.core.DatasetBuilder:
    """Prepares a data set in ArrayRecord files, unless it exists.

    Args:
        name: of a builder and one of its configs, such as ``captioned_clips/images``;
            the default is the first config.
        source: folder of the local copy, in the layout of the builder.
        data_dir: folder of the prepared data sets.
        shards: number of files of each split; None for TFDS's default.

    Raises:
        ValueError: there is no such data set, or the local copy has another layout.
    """
    base, _, config = name.partition("/")
    known = [item.name for item in getattr(BUILDERS.get(base), "BUILDER_CONFIGS", [])]
    if base not in BUILDERS or (config and config not in known):
        raise ValueError(
            f"{name!r} is not a data set; use one of {sorted(BUILDERS)}, with /CONFIG "
            f"where a builder has several{f' ({base}: {known})' if known else ''}."
        )
    if not Path(source).is_dir() or not any(Path(source).iterdir()):
        raise ValueError(
            f"source={str(source)!r} is not a folder of files. {base} needs: "
            f"{BUILDERS[base].MANUAL_DOWNLOAD_INSTRUCTIONS}"
        )
    builder = BUILDERS[base](
        config=config or None, data_dir=str(data_dir), file_format="array_record"
    )
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(
            manual_dir=str(Path(source).absolute()), num_shards=shards
        )
    )
    return builder
