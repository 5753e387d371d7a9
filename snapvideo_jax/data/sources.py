"""Random-access sources of captioned clips and pictures.

A source holds one kind, has a length, and gives sample ``i`` as encoded bytes with a
caption; decoding comes later, in the reading threads. Sources check what can be
checked when they are made, so that a wrong path or a damaged list ends a run before
it starts.
"""

import contextlib
import json
from collections.abc import Iterator, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import grain

from snapvideo_jax.data.container import LARGE_BYTES, Encoded, UnusableClip
from snapvideo_jax.data.records import decode_record

Kind = Literal["video", "image"]
KINDS: tuple[Kind, ...] = ("video", "image")


@dataclass(frozen=True)
class Sample:
    """One captioned file.

    name: what to call it in messages: the file, or the place in a data set.
    caption: text in any language.
    data: content of the file, encoded; of a large one, where it is.
    resolution: height and width of the original, where ``data`` was made from a larger
        one; None for the size of ``data``.
    """

    name: str
    caption: str
    data: Encoded
    resolution: tuple[int, int] | None = None


@runtime_checkable
class Source(Protocol):
    """What all sources have in common."""

    kind: Kind

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


class FolderSource:
    """Files listed in a folder's ``captions.jsonl``, one JSON object a line.

    Each line has the keys ``file`` (relative to the folder), ``type`` (``video`` or
    ``image``) and ``caption``; other keys are ignored.

    Args:
        root: the folder.
        kind: which lines to take.
        limit: take only the first ones, 0 for all.

    Raises:
        ValueError: no folder, no list, a line that makes no sense, a listed file that
            is missing, or no line of this kind.
    """

    def __init__(self, root: str | Path, kind: Kind, limit: int = 0):
        self.kind = kind
        self._root = Path(root)
        if not self._root.is_dir():
            raise ValueError(
                f"data.root={str(root)!r} is not a folder; set data.root to a folder "
                f"with captions.jsonl."
            )
        if not (self._root / "captions.jsonl").is_file():
            raise ValueError(
                f"data.root={str(root)!r} has no captions.jsonl; write one with a line "
                f'{{"file": ..., "type": "video" or "image", "caption": ...}} for each '
                f"file."
            )
        lines = [line for line in self._read_lines() if line["type"] == kind]
        self._files = [(line["file"], line["caption"]) for line in lines]
        if limit:
            self._files = self._files[:limit]
        for file, _ in self._files:
            if not (self._root / file).is_file():
                raise ValueError(
                    f"data.root={str(root)!r} has no file {file!r}, which "
                    f"captions.jsonl lists; add the file or delete its line."
                )
        _require_samples(self._files, kind, f"data.root={str(root)!r}")

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Sample:
        file, caption = self._files[index]
        path = self._root / file
        try:
            is_large = path.stat().st_size > LARGE_BYTES
            return Sample(file, caption, path if is_large else path.read_bytes())
        except OSError as error:
            raise UnusableClip(f"unreadable file ({error.strerror})") from error

    @property
    def captions(self) -> list[str]:
        """Captions of all files, which are not read for it."""
        return [caption for _, caption in self._files]

    def _read_lines(self) -> list[dict[str, Any]]:
        lines = (self._root / "captions.jsonl").read_bytes().splitlines()
        return [
            self._read_line(number, line)
            for number, line in enumerate(lines, start=1)
            if line.strip()
        ]

    def _read_line(self, number: int, line: bytes) -> dict[str, Any]:
        where = f"data.root={str(self._root)!r}: captions.jsonl line {number}"
        try:
            # Bytes that are no UTF-8 come through: the sample is refused, not the run.
            entry = json.loads(line.decode("utf-8", "surrogateescape"))
        except ValueError as error:
            raise ValueError(
                f"{where} is not JSON ({error}); write one object a line."
            ) from error
        for key in ("file", "type", "caption"):
            value = entry.get(key) if isinstance(entry, dict) else None
            if not isinstance(value, str):
                raise ValueError(
                    f"{where} has {key}={value!r}, wanted a string; write "
                    f'{{"file": ..., "type": ..., "caption": ...}}.'
                )
        if entry["type"] not in KINDS:
            raise ValueError(
                f"{where} has type={entry['type']!r}; use 'video' or 'image'."
            )
        return entry


class RecordSource:
    """Records of `data.records` in the ArrayRecord files of a folder.

    Args:
        root: the folder; all its ``<kind>*.array_record`` files are read, by name.
        kind: which files to take.
        limit: take only the first records, 0 for all.

    Raises:
        ValueError: no such file, or no record in them.
    """

    def __init__(self, root: str | Path, kind: Kind, limit: int = 0):
        self.kind = kind
        files = sorted(str(path) for path in Path(root).glob(f"{kind}*.array_record"))
        if not files:
            raise ValueError(
                f"data.root={str(root)!r} has no {kind}*.array_record; set data.root "
                f"to a prepared data set, or use data.{kind}s_per_batch=0."
            )
        self._records = grain.sources.ArrayRecordDataSource(files)
        _require_samples(self._records, kind, f"data.root={str(root)!r}")
        held = len(self._records)
        self._length = min(limit, held) if limit else held

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Sample:
        try:
            record = decode_record(self._records[index])
        except ValueError as error:
            raise UnusableClip(f"unreadable record ({error})") from error
        name = record.get("file", f"{self.kind} record {index}")
        original = record.get("original_size")
        resolution = tuple(original) if original else None
        return Sample(name, record["caption"], record["data"], resolution)


class TFDSSource:
    """A prepared TFDS data set in ArrayRecord files; needs no TensorFlow.

    Its features are ``video`` or ``image`` (encoded bytes: a ``Tensor`` of shape
    ``()`` and dtype ``object``) and ``caption`` (``Text``).

    Args:
        name: of the data set, such as ``my_clips`` or ``my_clips:1.0.0``.
        kind: the feature to take.
        split: such as ``train`` or ``train[:90%]``.
        data_dir: where data sets lie; empty for TFDS's own default.
        limit: take only the first examples, 0 for all.

    Raises:
        ValueError: no such data set, split or feature, or no example.
    """

    def __init__(
        self, name: str, kind: Kind, split: str, data_dir: str = "", limit: int = 0
    ):
        self.kind = kind
        self._place = f"{name}/{split}"
        self._examples = _tfds_examples(name, kind, split, data_dir)
        _require_samples(self._examples, kind, f"data.tfds_{kind}s={name!r}")
        held = len(self._examples)
        self._length = min(limit, held) if limit else held

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Sample:
        example = self._examples[index]
        caption = example["caption"].decode("utf-8", "surrogateescape")
        return Sample(f"{self._place}[{index}]", caption, bytes(example[self.kind]))


def captions_in(source: Source) -> Iterator[str]:
    """All captions of a source; only a folder's are there without reading the media."""
    if isinstance(source, FolderSource):
        yield from source.captions
    else:
        for index in range(len(source)):
            with contextlib.suppress(UnusableClip):  # nothing trains on it
                yield source[index].caption


def check_caption(caption: str) -> None:
    """Refuses a caption whose bytes are no text; it may be empty, or of any length.

    Raises:
        UnusableClip: it was not UTF-8.
    """
    try:
        caption.encode()
    except UnicodeEncodeError as error:
        raise UnusableClip("its caption is not UTF-8") from error


def _tfds_examples(name: str, kind: Kind, split: str, data_dir: str) -> Sequence[Any]:
    """Random access to a TFDS split."""
    # Slow to import, and needed by this source alone.
    import tensorflow_datasets as tfds

    field = f"data.tfds_{kind}s={name!r}"
    try:
        # From its files alone: the code that prepared it need not be at hand.
        find = tfds.core.read_only_builder.builder_from_files
        builder = find(name, data_dir=data_dir or None)
    except tfds.core.DatasetNotFoundError as error:
        raise ValueError(
            f"{field} is not in data.root={data_dir!r}; prepare it there with "
            f"file_format='array_record'."
        ) from error
    missing = {kind, "caption"} - set(builder.info.features)
    if missing:
        raise ValueError(
            f"{field} has features {sorted(builder.info.features)}, wanted {kind!r} "
            f"(encoded bytes) and 'caption'; prepare it again with these."
        )
    try:
        return builder.as_data_source(split)
    except (ValueError, KeyError, NotImplementedError) as error:
        raise ValueError(
            f"{field} has no readable data.tfds_split={split!r} "
            f"({str(error).splitlines()[0]}); its splits are "
            f"{list(builder.info.splits)}."
        ) from error


def _require_samples(samples: Sized, kind: Kind, field: str) -> None:
    if not len(samples):
        raise ValueError(
            f"{field} holds no {kind}, data.{kind}s_per_batch needs some; add {kind}s "
            f"or use data.{kind}s_per_batch=0."
        )
