"""Video files opened with suspicion: only formats that hold video, within limits.

Nobody vouches for the files of a scraped corpus. FFmpeg is told here which formats to
read (a playlist that is named ``.mp4`` would open other files and addresses), how large
a frame may be and when to give up; and its decoders are told to report damage, which
they would otherwise paint over with parts of other frames.
"""

import io
import time
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition
from jaxtyping import Int

Encoded = bytes | str | Path
"""Content of a file, or where the file is."""

MAX_PIXELS = 36_000_000
"""Of one frame or picture: 8192x4320 is within. A decoder holds up to 17 frames."""
LARGE_BYTES = 64 * 2**20
"""Of a file that is no longer read whole."""
LARGE_FRAMES = 2**14
"""Of a clip whose packets are no longer all read."""
WINDOW_BYTES = 512 * 2**20
"""Most that the packets around the frames asked for may take."""

_FORMATS = "mov,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,gif,ivf,h264"
_BUFFER_BYTES = 1 << 17


class UnusableClip(Exception):
    """A clip or picture that cannot be trained on; the message is the reason."""


class SlowClip(UnusableClip):
    """A clip that took longer than it may; on another day it might not."""


class Deadline:
    """The end of the time that one clip may take.

    Args:
        seconds: from now on, above 0.
    """

    def __init__(self, seconds: float):
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def check(self) -> None:
        """Raises `SlowClip` where the time is over."""
        if time.monotonic() > self._end:
            raise SlowClip(f"takes longer than {self.seconds:g} s to read")


def size_of(data: Encoded) -> int:
    """Bytes of a file.

    Raises:
        UnusableClip: it has none, or cannot be reached.
    """
    try:
        size = len(data) if isinstance(data, bytes) else Path(data).stat().st_size
    except OSError as error:
        raise UnusableClip(f"unreadable file ({error.strerror})") from error
    if not size:
        raise UnusableClip("empty file")
    return size


def content_of(data: Encoded) -> bytes:
    """A file as bytes, also where it was given by its place."""
    return data if isinstance(data, bytes) else Path(data).read_bytes()


def open_video(data: Encoded, deadline: Deadline) -> av.container.InputContainer:
    """The file, opened for reading.

    Raises:
        UnusableClip: it is of no format that holds video.
    """
    deadline.check()
    file = io.BytesIO(data) if isinstance(data, bytes) else str(data)
    # FFmpeg decodes some frames to guess what is asked of the decoder later anyway.
    # Skipping those saves half of the time to open; no frame comes out differently.
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
    """The stream to decode, in one thread, strictly.

    Raises:
        UnusableClip: there is none (the cover of an album is no video), or its frames
            are too large.
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
    # One that is larger than FFmpeg was allowed to read has no size either.
    if not 0 < decoder.width * decoder.height <= MAX_PIXELS:
        raise UnusableClip(f"frames of no known size, or over {MAX_PIXELS:,} pixels")
    # Clips are decoded side by side already; threads within one only cost start-up.
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
    """Packets of the stream in the order of decoding.

    Args:
        container, stream, deadline: of the clip.
        first: begin with the key frame that is not after this stamp; None begins with
            the file.
        last: end with the packet that is decoded after this stamp; None ends with the
            file.

    Raises:
        UnusableClip: the file is damaged or cut off there, or the packets are too many.
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
    """Presentation stamps of the packets' frames, rising, in ticks of the stream.

    Raises:
        UnusableClip: no packet is shown, or one does not say when.
    """
    stamps = [stamp_of(packet) for packet in packets if not packet.is_discard]
    if not stamps:
        raise UnusableClip("no frames")
    if None in stamps:
        raise UnusableClip("no presentation times")
    return np.unique(np.asarray(stamps, np.int64))


def stamp_of(packet: av.Packet) -> int | None:
    """When a packet's frame is shown, in ticks of its stream."""
    return packet.dts if packet.pts is None else packet.pts
