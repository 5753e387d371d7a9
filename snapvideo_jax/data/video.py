"""Decoding clips by presentation time, and pictures, from files or bytes.

A clip is asked for moments, not for frame numbers: files of uneven frame-rate give
the frame nearest to each moment, and only the packets from the key frame before the
first moment up to the last are decoded. Whatever cannot be used raises
`UnusableClip` with a short reason, so that one broken file among millions is counted
and passed over rather than ending a training run.
"""

import io
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

Encoded = bytes | str | Path
"""Content of a file, or where the file is."""

_thread = threading.local()
_buffer_bytes = 1 << 20


class UnusableClip(Exception):
    """A clip or picture that cannot be trained on; the message is the reason."""


@dataclass(frozen=True)
class ClipInfo:
    """What a clip holds, known without decoding it.

    frames: number of frames.
    fps: mean frame-rate over the clip, in 1/s; 0 for a single frame.
    duration: seconds from the first frame to the last, ``(frames - 1) / fps``.
    height, width: in pixels.
    """

    frames: int
    fps: float
    duration: float
    height: int
    width: int


class Clip:
    """An opened clip. Use it as a context manager.

    All packets are read at once, which costs little next to decoding and tells the
    true presentation times (headers often lie) and whether the file is complete.

    Args:
        data: content or path of a file with a video stream.

    Attributes:
        info: what the clip holds.
        times: presentation times of its frames, in seconds from the first.
        codec: name of its codec, such as "h264".
        time_base: seconds in a tick of its frames' presentation stamps.

    Raises:
        UnusableClip: nothing in it can be played, or the file is cut off.
    """

    def __init__(self, data: Encoded):
        self._container = _open(data)
        try:
            self._stream = _video_stream(self._container)
            self._packets, self._stamps = _read_packets(self._container, self._stream)
        except UnusableClip:
            self._container.close()
            raise
        ticks = float(self._stream.time_base)
        self.times = (self._stamps - self._stamps[0]) * ticks
        frames, duration = len(self.times), float(self.times[-1])
        self.info = ClipInfo(
            frames=frames,
            fps=(frames - 1) / duration if duration else 0.0,
            duration=duration,
            height=self._stream.codec_context.height,
            width=self._stream.codec_context.width,
        )
        self.codec = self._stream.codec_context.name
        self.time_base = self._stream.time_base

    def __enter__(self) -> "Clip":
        return self

    def __exit__(self, *exception: object) -> None:
        self._packets = []
        self._container.close()

    def frames_at(self, times: Float[np.ndarray, "t"]) -> UInt8[np.ndarray, "t h w c"]:
        """The frames nearest to the given moments.

        Args:
            times: seconds from the first frame, in rising order.

        Raises:
            UnusableClip: a moment is past the last frame, or cannot be decoded.
        """
        if times[-1] > self.times[-1] + 1e-3:
            raise UnusableClip(
                f"lasts {self.times[-1]:.3f} s, but its frame at {times[-1]:.3f} s "
                f"was asked for"
            )
        nearest = nearest_frames(self.times, times)
        wanted, order = np.unique(nearest, return_inverse=True)
        pictures = self._decode(self._stamps[wanted])
        return np.stack([pictures[i] for i in order])

    def play(self) -> Iterator[av.VideoFrame]:
        """All frames as they come from the decoder, in the order they are shown.

        Raises:
            UnusableClip: some frame does not decode.
        """
        count, before = 0, None
        for frame in self._play(int(self._stamps[0])):
            if before is not None and frame.pts <= before:
                raise UnusableClip("presentation times out of order, as in some AVIs")
            if frame.is_corrupt:
                raise UnusableClip(f"its frame {count} is damaged")
            count, before = count + 1, frame.pts
            yield frame
        if count != len(self.times):
            raise UnusableClip(f"only {count} of {len(self.times)} frames decode")

    def decoded(self) -> "DecodedClip":
        """The whole clip in memory.

        Raises:
            UnusableClip: some frame does not decode.
        """
        return DecodedClip(self.info, self.times, self.frames_at(self.times))

    def _decode(self, stamps: Int[np.ndarray, "n"]) -> list[UInt8[np.ndarray, "h w c"]]:
        """Pictures at the given presentation stamps (in ticks, rising)."""
        pictures, count, before = [], 0, None
        for frame in self._play(int(stamps[0])):
            count += 1
            if before is not None and frame.pts <= before.pts:
                raise UnusableClip("presentation times out of order, as in some AVIs")
            while len(pictures) < len(stamps) and frame.pts >= stamps[len(pictures)]:
                stamp = stamps[len(pictures)]
                early = before is not None and stamp - before.pts < frame.pts - stamp
                pictures.append(_to_rgb(before if early else frame))
            if len(pictures) == len(stamps):
                return pictures
            before = frame
        raise UnusableClip(
            f"only {count} frames decode of those up to {self.times[-1]:.3f} s"
        )

    def _play(self, stamp: int) -> Iterator[av.VideoFrame]:
        """Decodes from the last key frame that is not after ``stamp``."""
        starts = [
            index
            for index, packet in enumerate(self._packets)
            if packet.is_keyframe and _stamp(packet) <= stamp
        ]
        decoder = self._stream.codec_context
        decoder.flush_buffers()
        try:
            for packet in (*self._packets[starts[-1] if starts else 0 :], None):
                yield from decoder.decode(packet)
        except av.FFmpegError as error:
            raise UnusableClip(f"does not decode ({error.strerror})") from error


@dataclass(frozen=True)
class DecodedClip:
    """A clip held in memory, which gives the same frames as its file would.

    info: as of `Clip`.
    times: presentation times, in seconds from the first frame.
    frames: all frames.
    """

    info: ClipInfo
    times: Float[np.ndarray, "n"]
    frames: UInt8[np.ndarray, "n h w c"]

    def frames_at(self, times: Float[np.ndarray, "t"]) -> UInt8[np.ndarray, "t h w c"]:
        """The frames nearest to the given moments (seconds from the first frame)."""
        return self.frames[nearest_frames(self.times, times)]

    @staticmethod
    def of(image: UInt8[np.ndarray, "h w c"]) -> "DecodedClip":
        """An image as a clip of one frame."""
        info = ClipInfo(1, 0.0, 0.0, *image.shape[:2])
        return DecodedClip(info, np.zeros(1), image[None])


def probe(data: Encoded) -> ClipInfo:
    """What a clip holds; reads the file but decodes nothing.

    Raises:
        UnusableClip: as `Clip`.
    """
    with Clip(data) as clip:
        return clip.info


def decode_at(
    data: Encoded, times: Float[np.ndarray, "t"]
) -> UInt8[np.ndarray, "t h w c"]:
    """The frames of a clip nearest to the given moments, by presentation time.

    Args:
        data: content or path of a file.
        times: seconds from the first frame, in rising order.

    Raises:
        UnusableClip: as `Clip` and `Clip.frames_at`.
    """
    with Clip(data) as clip:
        return clip.frames_at(times)


def nearest_frames(
    stamps: Float[np.ndarray, "n"], times: Float[np.ndarray, "t"]
) -> Int[np.ndarray, "t"]:
    """Index of the frame whose stamp is nearest to each time; ties take the earlier.

    Args:
        stamps: presentation times of the frames, rising.
        times: moments, in the same unit.
    """
    return np.searchsorted((stamps[1:] + stamps[:-1]) / 2, times, side="left")


def decode_image(data: bytes) -> UInt8[np.ndarray, "h w c"]:
    """A picture as RGB, turned upright where its camera noted how it was held.

    Raises:
        UnusableClip: not a picture, or cut off.
    """
    if not data:
        raise UnusableClip("empty file")
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except UnidentifiedImageError:
        # Its own message names a place in memory, different each time.
        raise UnusableClip("not a readable image (of no known format)") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnusableClip(f"not a readable image ({error})") from error


def _open(data: Encoded) -> av.container.InputContainer:
    if isinstance(data, bytes):
        size, file = len(data), io.BytesIO(data)
    else:
        size, file = Path(data).stat().st_size, str(data)
    if not size:
        raise UnusableClip("empty file")
    try:
        return av.open(file, buffer_size=_buffer_bytes)
    except av.FFmpegError as error:
        raise UnusableClip("not a video file") from error


def _video_stream(container: av.container.InputContainer) -> av.VideoStream:
    if not container.streams.video:
        raise UnusableClip("no video stream")
    stream = container.streams.video[0]
    # Clips are decoded side by side already; threads within one only cost start-up.
    stream.thread_type, stream.thread_count = "NONE", 1
    return stream


def _read_packets(
    container: av.container.InputContainer, stream: av.VideoStream
) -> tuple[list[av.Packet], Int[np.ndarray, "n"]]:
    """All packets of the stream, and the presentation stamps of its frames, rising."""
    try:
        packets = [packet for packet in container.demux(stream) if packet.size]
    except av.FFmpegError as error:
        raise UnusableClip(f"unreadable file ({error.strerror})") from error
    whole = [packet for packet in packets if not packet.is_corrupt]
    if len(whole) < len(packets):
        held = f"{len(whole)} of {stream.frames} frames" if stream.frames else "a part"
        raise UnusableClip(f"truncated file, holds only {held}")
    stamps = [_stamp(packet) for packet in packets if not packet.is_discard]
    if not stamps:
        raise UnusableClip("no frames")
    if None in stamps:
        raise UnusableClip("no presentation times")
    return packets, np.unique(np.asarray(stamps, np.int64))


def _stamp(packet: av.Packet) -> int | None:
    """When a packet's frame is shown, in ticks of its stream."""
    return packet.dts if packet.pts is None else packet.pts


def _to_rgb(frame: av.VideoFrame) -> UInt8[np.ndarray, "h w c"]:
    # One converter a thread: a new one for each frame, or one with threads of its
    # own (PyAV's defaults), takes 4 to 8 times as long.
    if not hasattr(_thread, "reformatter"):
        _thread.reformatter = VideoReformatter()
    return _thread.reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
