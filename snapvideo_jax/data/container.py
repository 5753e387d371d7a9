"""Opens untrusted video files: container formats of video only, within limits.

Files of a scraped corpus may be malicious or damaged. FFmpeg is limited here to a list
of formats (a playlist named ``.mp4`` would open other files and addresses), to a frame
size and to a time; its decoders report damage, which they would otherwise conceal with
parts of other frames.
"""

import io
import time
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition
from jaxtyping import Int

Encoded = bytes | str | Path
"""The content of a file, or its path."""

MAX_PIXELS = 36_000_000
"""Limit of one frame or image; 8192x4320 fits. A decoder holds up to 17 frames."""
LARGE_BYTES = 64 * 2**20
"""Size from which a file is read in parts."""
LARGE_FRAMES = 2**14
"""Number of frames from which the packets of a clip are read in parts."""
WINDOW_BYTES = 512 * 2**20
"""Limit of the packets that are read for the requested frames."""

_FORMATS = "mov,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,gif,ivf,h264"
_BUFFER_BYTES = 1 << 17


class UnusableClip(Exception):
    """A clip or image that cannot be used; the message is the reason."""


class SlowClip(UnusableClip):
    """A clip whose decoding exceeded its time limit; another attempt may not."""


class Deadline:
    """Time limit for one clip.

    Args:
        seconds: from now, above 0.
    """

    def __init__(self, seconds: float):
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def check(self) -> None:
        """Raises `SlowClip` after the time limit."""
        if time.monotonic() > self._end:
            raise SlowClip(f"takes longer than {self.seconds:g} s to read")


def size_of(data: Encoded) -> int:
    """Size of a file in bytes.

    Raises:
        UnusableClip: it is empty, or cannot be accessed.
    """
    try:
        size = len(data) if isinstance(data, bytes) else Path(data).stat().st_size
    except OSError as error:
        raise UnusableClip(f"unreadable file ({error.strerror})") from error
    if not size:
        raise UnusableClip("empty file")
    return size


def content_of(data: Encoded) -> bytes:
    """The content of a file, read where ``data`` is a path."""
    return data if isinstance(data, bytes) else Path(data).read_bytes()


def open_video(data: Encoded, deadline: Deadline) -> av.container.InputContainer:
    """Opens a file for reading.

    Raises:
        UnusableClip: its format is not one of the known video containers.
    """
    deadline.check()
    file = io.BytesIO(data) if isinstance(data, bytes) else str(data)
    # FFmpeg decodes some frames to guess parameters that the decoder reports later.
    # Skipping those halves the time to open; the decoded frames are the same.
    options = {
        "skip_frame": "all",
        "max_pixels": str(MAX_PIXELS),
        "format_whitelist": _FORMATS,
    }
    try:
        return av.open(
            file,
            options=options,
            buffer_size=_BUFFER_BYTES,
            timeout=deadline.seconds,
            metadata_errors="replace",
        )
    except av.ExitError as error:
        deadline.check()
        raise UnusableClip("not a video file") from error
    except (av.FFmpegError, ValueError) as error:
        raise UnusableClip("not a video file") from error


def video_stream(container: av.container.InputContainer) -> av.VideoStream:
    """The video stream, set up for strict decoding in one thread.

    Raises:
        UnusableClip: there is none (cover art does not count), or its frames are too
            large.
    """
    streams = [
        stream
        for stream in container.streams.video
        if not stream.disposition & Disposition.attached_pic
    ]
    if not streams:
        raise UnusableClip("no video stream")
    stream = streams[0]
    decoder = stream.codec_context
    if decoder is None:
        raise UnusableClip("no decoder for its video")
    # FFmpeg also reports no size where it exceeds max_pixels.
    if not 0 < decoder.width * decoder.height <= MAX_PIXELS:
        raise UnusableClip(f"frames of no known size, or over {MAX_PIXELS:,} pixels")
    # Clips are decoded in parallel; threads within one only add start-up time.
    stream.thread_type, stream.thread_count = "NONE", 1
    decoder.options = {
        "err_detect": "crccheck+bitstream+buffer+explode",
        "max_pixels": str(MAX_PIXELS),
    }
    return stream


def read_packets(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    deadline: Deadline,
    first: int | None = None,
    last: int | None = None,
) -> list[av.Packet]:
    """Packets of the stream in decoding order.

    Args:
        container, stream, deadline: of the clip.
        first: start at the last key frame up to this stamp; None: at the start of the
            file.
        last: stop after the first packet decoded after this stamp; None: at the end of
            the file.

    Raises:
        UnusableClip: the file is damaged or truncated there, or the packets exceed
            `WINDOW_BYTES`.
    """
    packets, held = [], 0
    try:
        if first is not None:
            container.seek(first, stream=stream)
        for packet in container.demux(stream):
            deadline.check()
            if not packet.size:
                continue
            packets.append(packet)
            held += packet.size
            if held > WINDOW_BYTES:
                raise UnusableClip(f"needs more than {held >> 20} MB for a few frames")
            if last is not None and packet.dts is not None and packet.dts > last:
                break
    except av.FFmpegError as error:
        deadline.check()
        raise UnusableClip(f"unreadable file ({error.strerror})") from error
    whole = sum(not packet.is_corrupt for packet in packets)
    if whole < len(packets):
        part = f"{whole} of {stream.frames} frames" if stream.frames else "a part"
        raise UnusableClip(f"truncated file, holds only {part}")
    return packets


def stamps_of(packets: list[av.Packet]) -> Int[np.ndarray, "n"]:
    """Presentation stamps of the packets' frames, ascending, in ticks of the stream.

    Raises:
        UnusableClip: no packet is presented, or one has no stamp.
    """
    stamps = [stamp_of(packet) for packet in packets if not packet.is_discard]
    if not stamps:
        raise UnusableClip("no frames")
    if None in stamps:
        raise UnusableClip("no presentation times")
    return np.unique(np.asarray(stamps, np.int64))


def stamp_of(packet: av.Packet) -> int | None:
    """Presentation stamp of a packet's frame, in ticks of its stream."""
    return packet.dts if packet.pts is None else packet.pts
