"""TFDS builder of captioned files from a folder with captions.jsonl or tar shards."""

import itertools
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from snapvideo_jax.data.builders.elements import element, element_spec
from snapvideo_jax.data.container import content_of
from snapvideo_jax.data.sources import FolderSource
from snapvideo_jax.io.captions import Kind

SUFFIXES: dict[Kind, tuple[str, ...]] = {
    "video": ("mp4", "webm", "mkv", "mov", "avi"),
    "image": ("jpg", "jpeg", "png", "webp"),
}


class CaptionedClips(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """The user's files as a split ``train``.

    The folder has captions.jsonl, as of `FolderSource`, or WebDataset shards: tar files
    in which the members with the same name up to the first dot are a sample, such as
    ``007.mp4``, and ``007.txt`` with its caption, or ``007.json`` with ``caption`` (or
    ``captions``, a list).
    """

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(name="videos"),
        tfds.core.BuilderConfig(name="images"),
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = "A folder with captions.jsonl or tar shards."

    @property
    def _kind(self) -> Kind:
        return "image" if self.builder_config.name == "images" else "video"

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(builder=self, features=element_spec(self._kind))

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        return {"train": self._generate_examples(Path(dl_manager.manual_dir))}

    def _generate_examples(self, root: Path) -> Iterator[tuple[str, dict]]:
        archives = sorted(root.glob("*.tar"))
        if archives and not (root / "captions.jsonl").exists():
            for archive in archives:
                yield from tar_elements(archive, self._kind)
            return
        source = FolderSource(root, self._kind)
        for index in range(len(source)):
            sample = source[index]
            data = content_of(sample.data)
            made = element(self._kind, data, sample.all_captions, sample.name)
            yield f"{index:08}", made


def tar_elements(archive: Path, kind: Kind) -> Iterator[tuple[str, dict[str, Any]]]:
    """Keys and elements of the samples of one kind in a WebDataset shard, in order.

    Raises:
        ValueError: the shard is damaged, or a sample has no caption.
    """
    try:
        with tarfile.open(archive, "r:") as tar:
            files = (member for member in tar if member.isfile())
            for stem, members in itertools.groupby(files, _stem):
                # Read at once: the next group advances the position in the tar.
                parts = {_suffix(m): tar.extractfile(m).read() for m in members}
                media = [parts[name] for name in SUFFIXES[kind] if name in parts]
                if media:
                    name = f"{archive.name}/{stem}"
                    captions = _captions(parts, name)
                    yield name, element(kind, media[0], captions, name)
    except tarfile.TarError as error:
        raise ValueError(f"{archive} is damaged ({error}); fetch it again.") from error


def _captions(parts: dict[str, bytes], name: str) -> list[str]:
    if "txt" in parts:
        return [parts["txt"].decode("utf-8").strip()]
    try:
        fields = json.loads(parts.get("json", b"{}"))
    except ValueError as error:
        raise ValueError(f"{name}.json is not JSON ({error}).") from error
    captions = fields.get("captions") or [fields.get("caption")]
    if not all(isinstance(caption, str) for caption in captions):
        raise ValueError(
            f"{name} has no caption; add {Path(name).name}.txt, or 'caption' to its "
            "JSON."
        )
    return captions


def _stem(member: tarfile.TarInfo) -> str:
    folder, slash, name = member.name.rpartition("/")
    return folder + slash + name.partition(".")[0]


def _suffix(member: tarfile.TarInfo) -> str:
    return member.name.rpartition("/")[2].partition(".")[2].lower()
