"""A cache of text embeddings: one ragged array for each caption, found by the caption.

    manifest.json               encoder, tokens, width
    text-00000.array_record     embeddings of some captions, then the shard's index
    text-00001.array_record     ...

A record is bfloat16, ``n f`` with the caption's true length n. The last record of a
shard is its index: the keys of its captions in the order of their records. Shards are
written atomically with their index; captions are added in new shards, so that an
interrupted command resumes after its last shard.
"""

import hashlib
import itertools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import grain
import ml_dtypes
import numpy as np
from array_record.python import array_record_module
from jaxtyping import Bool, Float32, Shaped

from snapvideo_jax.io import saved_settings
from snapvideo_jax.text.encoder import TextEncoder, is_blank, refuse_lone_string

KEY_BYTES = 16
BFLOAT16 = np.dtype(ml_dtypes.bfloat16).newbyteorder("<")
MANIFEST = "manifest.json"
WRITER_OPTIONS = "group_size:1,uncompressed"
"""One record per group: random access reads no other record."""


def key_of(caption: str) -> bytes:
    """The key of a caption: the first bytes of its SHA-256."""
    return hashlib.sha256(caption.encode("utf-8", "surrogatepass")).digest()[:KEY_BYTES]


class CachedText(TextEncoder):
    """Reads embeddings that `snapvideo encode_text` wrote.

    Files are read on first use. The index takes 24 bytes of memory per caption.

    Args:
        path: folder of the cache.
        tokens, width: of the embeddings; must equal the manifest's.
    """

    def __init__(self, path: str, tokens: int, width: int):
        self.tokens = tokens
        self.width = width
        self._folder = Path(path)
        self._opened: tuple[_Index, Sequence[bytes], dict] | None = None

    def encode(
        self, captions: Sequence[str]
    ) -> tuple[Float32[np.ndarray, "b n f"], Bool[np.ndarray, "b n"]]:
        """Embeddings, zero past a caption's length, and a mask, True up to it.

        Raises:
            ValueError: as `check`, or the cache cannot be used.
        """
        refuse_lone_string(captions)
        self.check(captions)
        index, records, _ = self._open()
        text = np.zeros((len(captions), self.tokens, self.width), np.float32)
        mask = np.zeros(text.shape[:2], bool)
        for i, caption in enumerate(captions):
            if not is_blank(caption):
                record = records[index.position(caption)]
                found = np.frombuffer(record, BFLOAT16)
                found = found.reshape(-1, self.width)
                text[i, : len(found)], mask[i, : len(found)] = found, True
        return text, mask

    def check(self, captions: Iterable[str]) -> None:
        """Checks that all captions are in the cache.

        Raises:
            ValueError: captions are missing; names one, their number, and the command
                that adds them.
        """
        index, _, manifest = self._open()
        first, missing, count = "", 0, 0
        for caption in captions:  # iterated once: a large data set may not fit
            count += 1
            if not is_blank(caption) and caption not in index:
                first, missing = first or caption, missing + 1
        if missing:
            raise ValueError(
                f"{self._folder} lacks {missing} of {count} captions, as "
                f"{first!r}; add them: snapvideo encode_text --captions FILE "
                f"--encoder {manifest['encoder']} --out {self._folder}"
            )

    def _open(self):
        if self._opened is None:
            manifest = read_manifest(self._folder)
            for name in ("tokens", "width"):
                if manifest[name] != getattr(self, name):
                    raise ValueError(
                        f"text.{name}={getattr(self, name)}, but {self._folder} has "
                        f"{name}={manifest[name]}; use text.{name}="
                        f"{manifest[name]}."
                    )
            shards = shards_of(self._folder)
            if not shards:
                raise ValueError(f"{self._folder} has no text-*.array_record.")
            index = _Index(map(read_keys, shards))
            records = grain.sources.ArrayRecordDataSource(list(map(str, shards)))
            self._opened = index, records, manifest
        return self._opened


class _Index:
    """Maps captions to the positions of their records."""

    def __init__(self, shards: Iterable[Shaped[np.ndarray, "n"]]):
        keys, positions, first = [], [], 0
        for shard in shards:
            keys.append(shard)
            positions.append(np.arange(first, first + len(shard)))
            first += len(shard) + 1  # the index of the shard is a record too
        joined = np.concatenate(keys)
        order = np.argsort(joined)
        self._keys, self._positions = joined[order], np.concatenate(positions)[order]

    def __contains__(self, caption: str) -> bool:
        return self._find(caption) is not None

    def position(self, caption: str) -> int:
        return int(self._positions[self._find(caption)])

    def _find(self, caption: str) -> int | None:
        key = np.array(key_of(caption), f"S{KEY_BYTES}")
        at = int(np.searchsorted(self._keys, key))
        return at if at < len(self._keys) and self._keys[at] == key else None


def shards_of(folder: Path) -> list[Path]:
    """The finished shards of a cache, in order."""
    return sorted(folder.glob("text-*.array_record"))


def next_shards(folder: Path, count: int) -> list[Path]:
    """The first ``count`` free names of shards, including gaps between shards."""
    paths = (folder / f"text-{number:05d}.array_record" for number in itertools.count())
    return list(itertools.islice((p for p in paths if not p.exists()), count))


def read_keys(shard: Path) -> Shaped[np.ndarray, "n"]:
    """The keys of a shard's captions.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        reader = array_record_module.ArrayRecordReader(str(shard))
        records = reader.num_records()
        index = reader.read([records - 1])[0] if records else b""
        keys = np.frombuffer(index, f"S{KEY_BYTES}")
        reader.close()
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{shard} is damaged ({error}); delete it.") from error
    if len(keys) != records - 1:
        raise ValueError(f"{shard} is damaged: its index is of {len(keys)}; delete it.")
    return keys


def write_shard(
    path: Path, keys: Sequence[bytes], embeddings: Iterable[Float32[np.ndarray, "_ f"]]
) -> None:
    """Writes a shard atomically.

    Args:
        path: of the shard.
        keys: of its captions.
        embeddings: of each caption, without padding.
    """
    temporary = path.with_suffix(".tmp")
    writer = array_record_module.ArrayRecordWriter(str(temporary), WRITER_OPTIONS)
    for embedding in embeddings:
        writer.write(embedding.astype(BFLOAT16).tobytes())
    writer.write(b"".join(keys))
    writer.close()
    temporary.replace(path)


def read_manifest(folder: Path) -> dict:
    """The manifest of a cache: encoder, fingerprint, tokens, width, dtype.

    Raises:
        ValueError: the folder has no manifest.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise ValueError(
            f"{folder} is not a text cache: {MANIFEST} is missing; write one with "
            f"snapvideo encode_text --out {folder}."
        )
    return json.loads(path.read_text())


def begin_cache(folder: Path, manifest: dict) -> None:
    """Writes the manifest of a new cache; checks that of an existing one.

    Raises:
        ValueError: the cache was begun with another encoder or other settings.
    """
    saved_settings.begin(
        folder / MANIFEST,
        manifest,
        f"--out={folder}",
        ignored=lambda name: name == "encoder",
    )
