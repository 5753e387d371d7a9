"""Re-encodes clips to the same bytes for the same frames on any machine.

x264 uses one thread and no code path that depends on the processor, and neither it nor
the container writes optional dates or versions. Another version of PyAV may have
another encoder, so the output records the version it was made with.
"""

from fractions import Fraction

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from snapvideo_jax.data.prepare.config import Stage
from snapvideo_jax.data.rescale import EXACT
from snapvideo_jax.io.mp4 import Mp4Writer


def covering_size(stage: Stage, height: int, width: int) -> tuple[int, int] | None:
    """The smallest even size of the given aspect ratio that covers a stage.

    Returns:
        Height and width; None where the given size does not cover the stage.
    """
    if height < stage.height or width < stage.width:
        return None
    scale = max(stage.height / height, stage.width / width)
    sizes = (height, stage.height), (width, stage.width)
    return tuple(
        min(old - old % 2, max(least, 2 * round(old * scale / 2)))
        for old, least in sizes
    )


class ClipWriter:
    """Encodes decoded frames as an H.264 MP4 at a stage's size, rotated for display.

    Presentation times are exact, so clips of variable frame-rate remain so.

    Args:
        stage: quality and distance of key frames.
        height, width: of the result, even.
        rotation: quarter turns counterclockwise from the stored to the displayed frame.
        fps: approximate frame-rate in 1/s, for the encoder's rate control.
        time_base: seconds per tick of the frames' presentation stamps.
    """

    def __init__(
        self,
        stage: Stage,
        height: int,
        width: int,
        rotation: int,
        fps: float,
        time_base: Fraction,
    ):
        self._rotation, self._time_base = rotation, time_base
        self._first: int | None = None
        # One converter per direction: a new one per frame costs more than encoding.
        self._to_rgb, self._to_yuv = VideoReformatter(), VideoReformatter()
        self._size = (width, height) if rotation % 2 else (height, width)
        self._writer = Mp4Writer(
            height,
            width,
            max(Fraction(fps).limit_denominator(1001), Fraction(1, 1001)),
            {
                "preset": "veryfast",
                "crf": str(stage.crf),
                "g": str(stage.gop),
                "keyint_min": str(stage.gop),
                "sc_threshold": "0",
                "flags": "+bitexact",
                "x264-params": "cpu-independent=1",
            },
            threads=1,
            time_base=time_base,
            bitexact=True,
        )

    def add(self, frame: av.VideoFrame) -> None:
        """Appends a frame with its presentation stamp."""
        height, width = self._size
        small = self._to_rgb.reformat(
            frame,
            width=width,
            height=height,
            format="rgb24",
            interpolation=Interpolation.AREA | EXACT,
            threads=1,
        ).to_ndarray()
        upright = np.ascontiguousarray(np.rot90(small, self._rotation))
        yuv = self._to_yuv.reformat(
            av.VideoFrame.from_ndarray(upright, format="rgb24"),
            format="yuv420p",
            interpolation=Interpolation.BILINEAR | EXACT,
            threads=1,
        )
        if self._first is None:
            self._first = frame.pts
        yuv.pts, yuv.time_base = frame.pts - self._first, self._time_base
        self._writer.add(yuv)

    def close(self) -> bytes:
        """The content of the MP4 file."""
        return self._writer.close()
