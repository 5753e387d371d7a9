"""Random-access sources of captioned clips and images.

A source has one kind and a length, and returns sample ``i`` as encoded bytes with a
caption; reading threads decode it later. Constructors check whatever can be checked
without decoding, so that a wrong path or a malformed list is an error before a run
starts.
"""

import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import grain
import numpy as np

from snapvideo_jax.data.container import LARGE_BYTES, Encoded, UnusableClip
from snapvideo_jax.data.filters import Filter, first_broken, select
from snapvideo_jax.data.records import decode_record, read_headers
from snapvideo_jax.io.captions import (
    CAPTIONS,
    Fields,
    Kind,
    captions_from,
    read_entries,
)
from snapvideo_jax.io.errors import first_line

log = logging.getLogger(__name__)


class FilteredOut(UnusableClip):
    """A file that a filter rejects; the file itself is fine."""


@dataclass(frozen=True)
class Sample:
    """One captioned file.

    name: for messages: the file, or its index in a data set.
    caption: text in any language.
    data: the encoded file; the path of a large one.
    resolution: height and width of the original, where ``data`` was reduced from a
        larger one; None for the size of ``data``.
    captions: alternatives, where there are several; ``caption`` is the first.
    fields: metadata of the file.
    """

    name: str
    caption: str
    data: Encoded
    resolution: tuple[int, int] | None = None
    captions: tuple[str, ...] = ()
    fields: Fields = field(default_factory=dict, compare=False)

    @property
    def all_captions(self) -> tuple[str, ...]:
        """All alternative captions, at least one."""
        return self.captions or (self.caption,)


@runtime_checkable
class Source(Protocol):
    """The interface of all sources."""

    kind: Kind

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample:
        """One sample.

        Raises:
            FilteredOut: a filter rejects it that needed its metadata from the file.
            UnusableClip: it cannot be read.
        """
        ...

    def headers(self) -> Iterator[Fields] | None:
        """Metadata of each file, in order; None where only its media have them."""
        ...


class FolderSource:
    """Files listed in a folder's ``captions.jsonl``, see `io.captions`.

    A sample whose caption is not UTF-8 is refused when it is loaded; any other unusable
    line is an error of the constructor.

    Args:
        root: the folder.
        kind: of the files.
        limit: number of lines of this kind to read, 0 for all.
        filters: that the files must pass.

    Raises:
        ValueError: the folder, the list or a listed file is missing, a line is
            malformed, or no line has this kind.
    """

    def __init__(
        self,
        root: str | Path,
        kind: Kind,
        limit: int = 0,
        filters: Sequence[Filter] = (),
    ):
        self.kind = kind
        self._root, where = Path(root), f"data.root={str(root)!r}"
        if not self._root.is_dir():
            raise ValueError(
                f"{where} is not a folder; set data.root to a folder with {CAPTIONS}."
            )
        if not (self._root / CAPTIONS).is_file():
            raise ValueError(
                f"{where} has no {CAPTIONS}; write one with a line "
                '{"file": ..., "type": "video" or "image", "caption": ...} for each '
                "file."
            )
        try:
            entries = read_entries(self._root / CAPTIONS, allow_non_unicode=True)
            entries = [entry for entry in entries if entry.type == kind]
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        entries = entries[:limit] if limit else entries
        _require_samples(entries, kind, where)
        chosen = _chosen(filters, (entry.fields for entry in entries), kind, where)
        self._entries = entries if chosen is None else [entries[i] for i in chosen]
        for entry in self._entries:
            if not (self._root / entry.file).is_file():
                raise ValueError(
                    f"{where} has no file {entry.file!r}, which {CAPTIONS} lists in "
                    f"line {entry.line}; add the file or delete its line."
                )

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Sample:
        entry = self._entries[index]
        path = self._root / entry.file
        try:
            is_large = path.stat().st_size > LARGE_BYTES
            data = path if is_large else path.read_bytes()
        except OSError as error:
            raise UnusableClip(f"unreadable file ({error.strerror})") from error
        return _sample(entry.file, entry.fields, data)

    def headers(self) -> Iterator[Fields]:
        """The fields of each line."""
        return (entry.fields for entry in self._entries)


class RecordSource:
    """Records of `data.records` in the ArrayRecord files of a folder.

    Filters are applied by the constructor where the headers of all records are stored
    with them (see `records.RecordWriter`), and otherwise when a record is read.

    Args:
        root: the folder; all its ``<kind>*.array_record`` files are read, ordered by
            name.
        kind: of the files.
        limit: number of records to read, 0 for all.
        filters: that the records must pass.

    Raises:
        ValueError: there is no such file, or no record in them.
    """

    def __init__(
        self,
        root: str | Path,
        kind: Kind,
        limit: int = 0,
        filters: Sequence[Filter] = (),
    ):
        self.kind = kind
        self._files = sorted(Path(root).glob(f"{kind}*.array_record"))
        where = f"data.root={str(root)!r}"
        if not self._files:
            raise ValueError(
                f"{where} has no {kind}*.array_record; set data.root "
                f"to a prepared data set, or use data.{kind}s_per_batch=0."
            )
        self._records = grain.sources.ArrayRecordDataSource(list(map(str, self._files)))
        _require_samples(self._records, kind, where)
        held = len(self._records)
        self._length = min(limit, held) if limit else held
        self._chosen, self._filters = None, tuple(filters)
        if headers := self.headers():
            self._chosen = _chosen(filters, headers, kind, where)
            self._filters = ()

    def __len__(self) -> int:
        return self._length if self._chosen is None else len(self._chosen)

    def __getitem__(self, index: int) -> Sample:
        place = index if self._chosen is None else int(self._chosen[index])
        try:
            record = decode_record(self._records[place])
            data = record.pop("data")
            name = record.get("file", f"{self.kind} record {place}")
            made = _sample(name, record, data)
        except ValueError as error:
            raise UnusableClip(f"unreadable record ({error})") from error
        return _passing(self._filters, made)

    def headers(self) -> Iterator[Fields] | None:
        """The headers of all records; None where some file lacks its headers.

        Raises:
            ValueError: their number differs from that of the records.
        """
        headers = read_headers(self._files, len(self._records))
        if headers is None:
            return None
        if self._length < len(self._records):
            headers = itertools.islice(headers, self._length)
        if self._chosen is None:
            return headers
        chosen = np.zeros(self._length, bool)
        chosen[self._chosen] = True
        return itertools.compress(headers, chosen)


class TFDSSource:
    """A prepared TFDS data set in ArrayRecord files; does not need TensorFlow.

    Its features are ``video`` or ``image`` (encoded bytes: a ``Tensor`` of shape
    ``()`` and dtype ``object``) and ``caption`` (``Text``). It may have ``captions``
    (a ``Sequence`` of ``Text``), and texts and numbers for filters, which are applied
    when an example is read.

    Args:
        name: of the data set, such as ``my_clips`` or ``my_clips:1.0.0``.
        kind: the feature to read.
        split: such as ``train`` or ``train[:90%]``.
        data_dir: folder of the data sets; empty for TFDS's default.
        limit: number of examples to read, 0 for all.
        filters: that the examples must pass.

    Raises:
        ValueError: there is no such data set, split or feature, or no example.
    """

    def __init__(
        self,
        name: str,
        kind: Kind,
        split: str,
        data_dir: str = "",
        limit: int = 0,
        filters: Sequence[Filter] = (),
    ):
        self.kind = kind
        self._place = f"{name}/{split}"
        self._filters = tuple(filters)
        self._examples = _tfds_examples(name, kind, split, data_dir)
        _require_samples(self._examples, kind, f"data.tfds_{kind}s={name!r}")
        held = len(self._examples)
        self._length = min(limit, held) if limit else held

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Sample:
        example = dict(self._examples[index])
        data = bytes(example.pop(self.kind))
        fields = {name: _plain(value) for name, value in example.items()}
        made = _sample(f"{self._place}[{index}]", fields, data)
        return _passing(self._filters, made)

    def headers(self) -> None:
        """None: an example can only be read as a whole."""
        return None


def _sample(name: str, fields: Mapping[str, Any], data: Encoded) -> Sample:
    """A sample from the metadata and the content of a file."""
    captions, original = captions_from(fields), fields.get("original_size")
    return Sample(
        name,
        captions[0],
        data,
        tuple(original) if original else None,
        captions if len(captions) > 1 else (),
        fields,
    )


def _passing(filters: Sequence[Filter], sample: Sample) -> Sample:
    rule = first_broken(filters, sample.fields)
    if rule:
        raise FilteredOut(rule.reason(sample.fields))
    return sample


def _chosen(
    filters: Sequence[Filter], headers: Any, kind: Kind, where: str
) -> np.ndarray | None:
    """Indices of the files that pass, logged; None where there are no filters."""
    if not filters:
        return None
    try:
        chosen, summary = select(filters, headers, f"the {kind}s of {where}")
    except ValueError as error:
        raise ValueError(f"data.{error}") from error
    log.info("%s, %ss: %s", where, kind, summary)
    return chosen


def _plain(value: Any) -> Any:
    """A value of a TFDS example as JSON would hold it; bytes become text."""
    if isinstance(value, np.ndarray) and value.ndim:
        return [_plain(item) for item in value]
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic | np.ndarray):
        value = value.item()
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    return value


def captions_in(source: Source) -> Iterator[str]:
    """All captions of a source; reads its media only where it has no headers."""
    headers = source.headers()
    if headers is not None:
        for fields in headers:
            yield from captions_from(fields)
        return
    for index in range(len(source)):
        yield from captions_of_sample(source, index)


def captions_of_sample(source: Source, index: int) -> tuple[str, ...]:
    """The captions of one sample, after reading it; none if it is unusable."""
    try:
        sample = source[index]
    except UnusableClip:
        return ()
    return sample.all_captions


def check_caption(caption: str) -> None:
    """Refuses a caption that is not UTF-8; it may be empty, or of any length.

    Raises:
        UnusableClip: the caption cannot be encoded.
    """
    try:
        caption.encode()
    except UnicodeEncodeError as error:
        raise UnusableClip("its caption is not UTF-8") from error


def _tfds_examples(name: str, kind: Kind, split: str, data_dir: str) -> Sequence[Any]:
    """Random access to a TFDS split."""
    # Slow to import, and only needed here.
    import tensorflow_datasets as tfds

    field = f"data.tfds_{kind}s={name!r}"
    try:
        # Reads its files without the code that prepared it.
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
            f"({first_line(error)}); its splits are "
            f"{list(builder.info.splits)}."
        ) from error


def _require_samples(samples: Sized, kind: Kind, field: str) -> None:
    if not len(samples):
        raise ValueError(
            f"{field} holds no {kind}, data.{kind}s_per_batch needs some; add {kind}s "
            f"or use data.{kind}s_per_batch=0."
        )
