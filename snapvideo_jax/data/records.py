"""One caption and one image or video, as one record of bytes.

A record is self-describing: four bytes with the length of a JSON header (unsigned,
little-endian), the header (UTF-8), then the encoded media up to the end:

    | header length: 4 bytes | {"type": "video", "caption": ..., "fps": ...} | media |

The header's keys are free; the media are the content of an MP4 or PNG file. Records are
stored in ArrayRecord files with one record a group, so that random access to a record
reads no other.

Next to ``video-00003.array_record``, ``video-00003.jsonl`` has the headers of its
records, one a line, so that all metadata are known without reading the media.
"""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
from array_record.python import array_record_module
from av.video.reformatter import VideoReformatter
from jaxtyping import UInt8
from PIL import Image

from snapvideo_jax.io.mp4 import Mp4Writer

WRITER_OPTIONS = "group_size:1,uncompressed"


def encode_record(record: Mapping[str, Any]) -> bytes:
    """Returns the bytes of a record.

    Args:
        record: ``data`` holds the encoded media (bytes); all other keys go to the
            header and hold what JSON can (strings, numbers, None, lists of them).

    Raises:
        ValueError: ``data`` is missing or is not bytes.
    """
    data = record.get("data")
    if not isinstance(data, bytes):
        raise ValueError(
            f"record['data'] is {type(data).__name__}, wanted the encoded media as "
            "bytes; encode frames with encode_mp4 or encode_png first."
        )
    header = _header(record)
    return len(header).to_bytes(4, "little") + header + data


def _header(record: Mapping[str, Any]) -> bytes:
    fields = {key: value for key, value in record.items() if key != "data"}
    return json.dumps(fields).encode()


def decode_record(encoded: bytes) -> dict[str, Any]:
    """Returns the record that `encode_record` was given: the header plus ``data``.

    Raises:
        ValueError: the bytes do not begin with a whole header.
    """
    end = 4 + int.from_bytes(encoded[:4], "little")
    if len(encoded) < max(end, 4):
        raise ValueError(
            f"record has {len(encoded)} bytes but its header ends at byte {end}; "
            "it is cut off or was not written by encode_record."
        )
    # Bytes that are not UTF-8 become surrogates: the caller refuses the sample.
    header = encoded[4:end].decode("utf-8", "surrogateescape")
    return json.loads(header) | {"data": encoded[end:]}


def headers_of(path: Path) -> Path:
    """Path of the headers of an ArrayRecord file."""
    return path.with_suffix(".jsonl")


def read_headers(files: Sequence[Path], count: int) -> Iterator[dict[str, Any]] | None:
    """The headers of all records; None where some file lacks its headers.

    Args:
        files: of records, in order.
        count: number of records in all of them.
    """
    paths = [headers_of(path) for path in files]
    if not all(path.is_file() for path in paths):
        return None
    return _read_headers(paths, count)


def _read_headers(paths: Sequence[Path], count: int) -> Iterator[dict[str, Any]]:
    """The headers in the files.

    Raises:
        ValueError: their number differs from that of the records.
    """
    found = 0
    for path in paths:
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                found += 1
                yield json.loads(line)
    if found != count:
        raise ValueError(
            f"{paths[0].parent} has {found} headers in *.jsonl for {count} records; "
            "prepare it again, or delete the files of headers."
        )


class RecordWriter:
    """Writes records to one ArrayRecord file, and their headers to a file next to it.

    A context manager that closes both.

    Args:
        path: the file, replaced if it exists.
    """

    def __init__(self, path: Path | str):
        self._writer = array_record_module.ArrayRecordWriter(str(path), WRITER_OPTIONS)
        self._headers = headers_of(Path(path)).open("wb")

    def write(self, record: Mapping[str, Any]) -> None:
        """Appends one record, see `encode_record`."""
        self._writer.write(encode_record(record))
        self._headers.write(_header(record) + b"\n")

    def __enter__(self) -> "RecordWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()
        self._headers.close()


def encode_mp4(
    frames: UInt8[np.ndarray, "t h w c"],
    fps: int,
    crf: int = 18,
    preset: str = "veryfast",
    gop: int = 8,
) -> bytes:
    """Returns an H.264 MP4 file (yuv420p).

    Args:
        frames: RGB; height and width even, which 4:2:0 chroma needs.
        fps: frames a second.
        crf: constant rate factor, 0 (lossless) to 51.
        preset: of x264, from fast to small.
        gop: frames from one key frame to the next; a small number makes seeking fast.

    Raises:
        ValueError: the height or width is odd.
    """
    height, width = frames.shape[1:3]
    if height % 2 or width % 2:
        raise ValueError(
            f"frames are {height}x{width}, wanted an even height and width for "
            "yuv420p; crop or resize the odd side by one pixel."
        )
    # One converter for all frames: a new one each costs more than the encoding.
    converter = VideoReformatter()
    options = {"crf": str(crf), "g": str(gop), "preset": preset}
    writer = Mp4Writer(height, width, fps, options, threads=1)
    for rgb in frames:
        frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
        writer.add(converter.reformat(frame, format="yuv420p", threads=1))
    return writer.close()


def encode_png(frame: UInt8[np.ndarray, "h w c"]) -> bytes:
    """Returns a PNG file of an RGB frame."""
    file = io.BytesIO()
    Image.fromarray(frame).save(file, format="png", compress_level=1)
    return file.getvalue()
