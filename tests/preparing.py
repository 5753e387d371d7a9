"""What the tests of preparation share: settings, and clips to prepare."""

import io
from fractions import Fraction

import av
import numpy as np

from snapvideo_jax.data.prepare import PrepareConfig, Rules, Stage

STAGES = {"base": Stage(height=16, width=24), "large": Stage(height=32, width=48)}


def config_of(source="unused", **changes):
    """Two stages, 4 + 2 shards, clips of at most 16 frames."""
    fields = dict(source=str(source), stages=STAGES, rules=Rules(min_frames=4))
    fields |= dict(clip_frames=16, video_shards=4, image_shards=2)
    return PrepareConfig(**fields | changes)


def moving(frames=12, height=40, width=56, seed=0):
    """Smooth waves that move to the right; grey, as 4:2:0 keeps half of the colours."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 7 + y / 9 - t / 3 + seed) for t in range(frames)]
    grey = (127 + 100 * np.stack(waves)).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=3)


def write_mp4(video, ticks=None, base=Fraction(1, 24), rotation=0):
    """An MP4 whose frames are shown at ``ticks`` of ``base`` seconds."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=24, options={"crf": "4"})
        stream.height, stream.width = video.shape[1:3]
        stream.pix_fmt, stream.codec_context.time_base = "yuv420p", base
        stream.time_base = base
        if rotation:
            stream.set_display_rotation(rotation)
        for number, rgb in enumerate(video):
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            frame.pts, frame.time_base = (ticks or range(99))[number], base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


def line_of(file, **fields):
    kind = "image" if file.endswith(".png") else "video"
    return {"file": file, "type": kind, "caption": f"about {file}"} | fields
