"""Decodes clips by presentation time, from files or bytes.

Frames are requested by time, not by number: a file of variable frame-rate returns the
frame nearest to each time. Of every group of pictures only the frames that a requested
frame depends on are decoded, and frames are converted to RGB at the size that is
needed. A file that cannot be used raises `UnusableClip` with a short reason: one broken
file among millions is counted and skipped and does not end a training run.
"""

import dataclasses
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass

import av
import numpy as np
from jaxtyping import Float, Int, UInt8

from snapvideo_jax.data.container import (
    LARGE_BYTES,
    LARGE_FRAMES,
    Deadline,
    Encoded,
    UnusableClip,
    open_video,
    read_packets,
    size_of,
    stamp_of,
    stamps_of,
    video_stream,
)
from snapvideo_jax.data.rescale import Size, cover_size, to_rgb, upright

DECODE_SECONDS = 30.0
"""Default time limit for one clip."""
MAX_DECODED_BYTES = 2**31
"""Limit of the frames returned by one call."""

# Decoders that can skip non-reference frames packet by packet.
_SKIPPING = ("h264", "hevc")
# A distance of frames above this multiple of their duration is a gap.
_GAP_RATIO = 2.5


@dataclass(frozen=True)
class ClipInfo:
    """Size and timing of a clip.

    frames: number of frames.
    fps: mean frame-rate over the clip, in 1/s; 0 for a single frame.
    duration: seconds from the first frame to the last, ``(frames - 1) / fps``.
    height, width: in pixels, as displayed.
    """

    frames: int
    fps: float
    duration: float
    height: int
    width: int

    @property
    def size(self) -> Size:
        """Height and width."""
        return self.height, self.width


class Clip:
    """An opened clip; a context manager.

    All packets are read at once, which costs little compared with decoding and gives
    the true presentation times (headers are often wrong) and whether the file is
    complete. Of a large file only the packets around the requested times are read; its
    header is trusted until the packets contradict it.

    Args:
        data: content or path of a file with a video stream.
        cover: scale frames to the smallest size of their aspect ratio that covers this
            size; None: leave their size.
        seconds: time limit for opening and decoding. It is checked between packets and
            frames, so a single frame or a file system that hangs can take longer.
        whole: read all packets of a large file too.

    Attributes:
        info: size and timing. Height and width of a clip that is stored rotated are
            right after the first frame was decoded.
        codec: name of its codec, such as "h264".
        time_base: seconds per tick of its frames' presentation stamps.

    Raises:
        UnusableClip: it has no video that can be decoded, or is truncated.
    """

    def __init__(
        self,
        data: Encoded,
        cover: Size | None = None,
        seconds: float = DECODE_SECONDS,
        whole: bool = False,
    ):
        self._cover, self._deadline = cover, Deadline(seconds)
        size = size_of(data)
        self._container = open_video(data, self._deadline)
        try:
            self._stream = video_stream(self._container)
            decoder = self._stream.codec_context
            self._stored = decoder.height, decoder.width
            self._tick = float(self._stream.time_base)
            self.codec, self.time_base = decoder.name, self._stream.time_base
            is_large = size > LARGE_BYTES or self._stream.frames > LARGE_FRAMES
            self._is_large = is_large and not whole
            read = self._read_header if self._is_large else self._read_all
            self.info = read()
        except BaseException:
            self._container.close()
            raise

    def _read_all(self) -> ClipInfo:
        self._packets = read_packets(self._container, self._stream, self._deadline)
        self._stamps = stamps_of(self._packets)
        self._start = int(self._stamps[0])
        frames = len(self._stamps)
        duration = float(self._stamps[-1] - self._start) * self._tick
        fps = (frames - 1) / duration if duration else 0.0
        self._require_end(duration)
        return ClipInfo(frames, fps, duration, *self._stored)

    def _require_end(self, duration: float) -> None:
        """Refuses a truncated Matroska file; other formats list their packets."""
        is_matroska = "matroska" in self._container.format.name
        if not is_matroska or len(self._container.streams) > 1:
            return
        said = (self._container.duration or 0) / av.time_base
        if duration < 0.9 * said - 1 / float(self._stream.average_rate or 1):
            raise UnusableClip(
                f"truncated file, holds only {duration:.3f} of {said:.3f} s"
            )

    def _read_header(self) -> ClipInfo:
        stream = self._stream
        seconds = (self._container.duration or 0) / av.time_base
        if stream.duration:
            seconds = stream.duration * self._tick
        fps = float(stream.average_rate or 0)
        frames = stream.frames or round(seconds * fps)
        if frames < 2 or not fps:
            raise UnusableClip("large file without a duration in its header")
        self._start = stream.start_time or 0
        return ClipInfo(frames, fps, (frames - 1) / fps, *self._stored)

    def __enter__(self) -> "Clip":
        return self

    def __exit__(self, *exception: object) -> None:
        self._packets = []
        self._container.close()

    def frames_at(self, times: Float[np.ndarray, "t"]) -> UInt8[np.ndarray, "t h w c"]:
        """The frames nearest to the given times.

        Args:
            times: seconds from the first frame, ascending.

        Raises:
            UnusableClip: a time is after the last frame, or a frame does not decode.
        """
        height, width = self._stored
        if self._cover:
            height, width = cover_size(self._stored, self._cover)
        if 3 * len(times) * height * width > MAX_DECODED_BYTES:
            raise UnusableClip(f"{len(times)} frames of {width}x{height} are too large")
        stamps, order = self.nearest_stamps(times)
        pictures = [self._picture(frame) for frame in self.decode(stamps)]
        return np.stack([pictures[i] for i in order])

    def nearest_stamps(
        self, times: Float[np.ndarray, "t"]
    ) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "t"]]:
        """Stamps of the frames nearest to the given times, without decoding them.

        Args and Raises: as of `frames_at`.

        Returns:
            The distinct stamps, ascending, and for each time the index of its stamp.
        """
        if times[-1] > self.info.duration + 1e-3:
            raise UnusableClip(
                f"lasts {self.info.duration:.3f} s, but its frame at {times[-1]:.3f} s "
                f"was requested"
            )
        if self._is_large:
            self._read_window(times)
        nearest = nearest_frames(self.times, times)
        again = (np.diff(nearest) == 0) & (np.diff(times) > 0)
        self._require_no_gap(nearest[1:][again])
        wanted, order = np.unique(nearest, return_inverse=True)
        return self._stamps[wanted], order

    @property
    def times(self) -> Float[np.ndarray, "n"]:
        """Presentation times of the frames read, in seconds from the first."""
        return (self._stamps - self._start) * self._tick

    def play(self) -> Iterator[av.VideoFrame]:
        """All frames as stored (not rotated or scaled), in presentation order.

        Raises:
            UnusableClip: some frame does not decode.
        """
        return self.decode(self._stamps)

    def decoded(self) -> "DecodedClip":
        """The whole clip, decoded into memory.

        Raises:
            UnusableClip: some frame does not decode, or the file is large.
        """
        if self._is_large:
            raise UnusableClip("too large to be decoded into memory")
        frames = self.frames_at(self.times)
        return DecodedClip(self.info, self.times, frames)

    def decode(self, stamps: Int[np.ndarray, "n"]) -> Iterator[av.VideoFrame]:
        """The frames with the given stamps (in ticks, ascending), as stored.

        Raises:
            UnusableClip: one of them does not decode.
        """
        keys = [
            (stamp_of(packet), index)
            for index, packet in enumerate(self._packets)
            if packet.is_keyframe
        ]
        keys = sorted(keys) or [(0, 0)]
        before = np.searchsorted([key for key, _ in keys], stamps, side="right") - 1
        for place in np.unique(before.clip(0)):
            run = stamps[before.clip(0) == place].tolist()
            try:
                yield from self._decode_run(keys[place][1], run)
            except UnusableClip:
                # Some encoders let frames refer to frames before a key frame.
                if not place:
                    raise
                yield from self._decode_run(keys[0][1], run)

    def _decode_run(self, first: int, stamps: list[int]) -> Iterator[av.VideoFrame]:
        """Frames with the given stamps, decoded from packet ``first`` on.

        Removes each stamp from the list when its frame was decoded.
        """
        wanted, before = set(stamps), None
        last = max(
            index
            for index, packet in enumerate(self._packets)
            if stamp_of(packet) in wanted
        )
        for frame in self._play(self._packets[first : last + 1], wanted):
            if frame.pts is None or (before is not None and frame.pts <= before):
                raise UnusableClip("presentation times out of order, as in some AVIs")
            before = frame.pts
            if stamps and frame.pts >= stamps[0]:
                self._require_shown(frame, stamps[0])
                del stamps[0]
                yield frame
        if stamps:
            raise UnusableClip(self._no_frame(stamps[0]))

    def _play(
        self, packets: Sequence[av.Packet], wanted: Set[int]
    ) -> Iterator[av.VideoFrame]:
        """Decodes packets from a key frame on; frames are in presentation order."""
        decoder = self._stream.codec_context
        decoder.flush_buffers()
        begin = stamp_of(packets[0])
        can_skip = decoder.name in _SKIPPING
        for packet in (*packets, None):
            self._deadline.check()
            if can_skip:
                is_wanted = packet is None or stamp_of(packet) in wanted
                decoder.skip_frame = "DEFAULT" if is_wanted else "NONREF"
            try:
                yield from decoder.decode(packet)
            except av.FFmpegError as error:
                # Frames presented before the key frame may depend on earlier ones.
                if packet is None or stamp_of(packet) >= begin:
                    raise UnusableClip(f"does not decode ({error.strerror})") from error

    def _require_shown(self, frame: av.VideoFrame, stamp: int) -> None:
        """Refuses another or a damaged frame in place of the one at a stamp."""
        if frame.pts != stamp or frame.is_corrupt:
            raise UnusableClip(self._no_frame(stamp))
        height, width = self._stored
        if (frame.height, frame.width) != self._stored:
            raise UnusableClip(
                f"says {width}x{height} pixels, but a frame has "
                f"{frame.width}x{frame.height}"
            )

    def _no_frame(self, stamp: int) -> str:
        return (
            f"its frame at {(stamp - self._start) * self._tick:.3f} s does not decode"
        )

    def _require_no_gap(self, repeated: Int[np.ndarray, "n"]) -> None:
        """Refuses to fill a gap between frames with repetitions of its neighbours.

        A broadcast that lost packets or a damaged time stamp leaves such gaps. Where
        packets declare uneven durations, long distances are not gaps.
        """
        gaps = np.diff(self._stamps)
        lengths = {packet.duration or 0 for packet in self._packets[:-1]}
        usual = lengths.pop() if len(lengths) == 1 else 0
        if not usual and self._container.format.name.startswith("mpeg"):
            usual = np.median(gaps)  # broadcasts have a constant frame-rate
        if not usual:
            return
        for frame in repeated:
            gap = gaps[max(0, frame - 1) : frame + 1].max()
            if gap > _GAP_RATIO * usual:
                begin = (self._stamps[frame] - self._start) * self._tick
                raise UnusableClip(
                    f"no frames for {gap * self._tick:.3f} s near {begin:.3f} s, each "
                    f"lasts {usual * self._tick:.3f} s"
                )

    def _read_window(self, times: Float[np.ndarray, "t"]) -> None:
        """Reads the packets around the given times of a large file."""
        first, last = (
            self._start + round(x / self._tick) for x in (times[0], times[-1])
        )
        margin = round(2 / self.info.fps / self._tick)
        window = first - margin, last + margin
        self._packets = read_packets(
            self._container, self._stream, self._deadline, *window
        )
        self._stamps = stamps_of(self._packets)
        if not self._stamps[0] - margin <= first <= last <= self._stamps[-1] + margin:
            start, end = (self._stamps[[0, -1]] - self._start) * self._tick
            raise UnusableClip(
                f"holds {start:.3f} to {end:.3f} s where {times[0]:.3f} to "
                f"{times[-1]:.3f} s were requested"
            )

    def _picture(self, frame: av.VideoFrame) -> UInt8[np.ndarray, "h w c"]:
        """A frame in RGB, rotated for display and scaled as ``cover`` asks."""
        shown, turns = upright(frame)
        height, width = shown
        self.info = dataclasses.replace(self.info, height=height, width=width)
        if self._cover:
            height, width = cover_size(shown, self._cover)
        stored = (height, width)[:: -1 if turns % 2 else 1]
        return np.rot90(to_rgb(frame, stored), turns)


@dataclass(frozen=True)
class DecodedClip:
    """A decoded clip in memory; it returns the same frames as its file.

    info: as of `Clip`.
    times: presentation times, in seconds from the first frame.
    frames: all frames, scaled as ``cover`` of `Clip` specified.
    """

    info: ClipInfo
    times: Float[np.ndarray, "n"]
    frames: UInt8[np.ndarray, "n h w c"]

    def frames_at(self, times: Float[np.ndarray, "t"]) -> UInt8[np.ndarray, "t h w c"]:
        """The frames nearest to the given times (seconds from the first frame)."""
        return self.frames[nearest_frames(self.times, times)]

    @staticmethod
    def from_image(image: UInt8[np.ndarray, "h w c"], size: Size) -> "DecodedClip":
        """An image as a clip of one frame; ``size`` is the size in the file."""
        return DecodedClip(ClipInfo(1, 0.0, 0.0, *size), np.zeros(1), image[None])


def probe(data: Encoded, seconds: float = DECODE_SECONDS) -> ClipInfo:
    """Size and timing of a clip; decodes its first frame only.

    Raises:
        UnusableClip: as `Clip` and `Clip.frames_at`.
    """
    with Clip(data, cover=(1, 1), seconds=seconds) as clip:
        clip.frames_at(np.zeros(1))
        return clip.info


def decode_at(
    data: Encoded, times: Float[np.ndarray, "t"], cover: Size | None = None
) -> UInt8[np.ndarray, "t h w c"]:
    """The frames of a clip nearest to the given presentation times.

    Args:
        data: content or path of a file.
        times: seconds from the first frame, ascending.
        cover: as of `Clip`.

    Raises:
        UnusableClip: as `Clip` and `Clip.frames_at`.
    """
    with Clip(data, cover) as clip:
        return clip.frames_at(times)


def nearest_frames(
    stamps: Float[np.ndarray, "n"], times: Float[np.ndarray, "t"]
) -> Int[np.ndarray, "t"]:
    """Index of the frame nearest to each time; the earlier of two as near.

    Args:
        stamps: presentation times of the frames, ascending.
        times: in the same unit.
    """
    return np.searchsorted((stamps[1:] + stamps[:-1]) / 2, times, side="left")
