"""The writer of H.264 MP4 files."""

import io
from collections.abc import Mapping
from fractions import Fraction

import av


class Mp4Writer:
    """Encodes frames as an H.264 MP4 file (yuv420p) in memory.

    Args:
      height, width: of the frames in pixels, even.
      rate: frames per second that the encoder assumes.
      options: of x264, by name.
      threads: of x264; 0 lets it choose. Bytes are reproducible with 1.
      time_base: seconds in a tick of the frames' presentation stamps; None for frames
        without stamps, which are 1 / ``rate`` apart.
      bitexact: omits versions and dates from the container.
    """

    def __init__(
        self,
        height: int,
        width: int,
        rate: int | Fraction,
        options: Mapping[str, str],
        threads: int = 0,
        time_base: Fraction | None = None,
        bitexact: bool = False,
    ):
        self._file = io.BytesIO()
        flags = {"fflags": "+bitexact"} if bitexact else {}
        self._container = av.open(self._file, "w", format="mp4", options=flags)
        self._stream = self._container.add_stream(
            "libx264", rate=rate, options=dict(options)
        )
        self._stream.height, self._stream.width = height, width
        self._stream.pix_fmt = "yuv420p"
        if threads:
            self._stream.thread_count = threads
        if time_base is not None:
            self._stream.time_base = self._stream.codec_context.time_base = time_base

    def add(self, frame: av.VideoFrame) -> None:
        """Appends a frame."""
        self._container.mux(self._stream.encode(frame))

    def close(self) -> bytes:
        """Returns the content of the file."""
        self._container.mux(self._stream.encode())
        self._container.close()
        return self._file.getvalue()
