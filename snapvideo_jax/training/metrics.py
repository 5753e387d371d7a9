"""Metrics of a run: scalars, clips and texts by step.

Scalars go to ``metrics.jsonl``, for programs, and to TensorBoard, for people. Both are
truncated to the restored step when a run resumes, so that a resumed run leaves the
record of an uninterrupted one.
"""

import json
import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorboardX
from jaxtyping import UInt8
from tensorboardX.proto import summary_pb2

from snapvideo_jax.io import media
from snapvideo_jax.io.json_lines import truncate_after
from snapvideo_jax.training.run_folder import RunFolder


class MetricWriter:
    """Writes scalars, clips and texts of a run under its workdir.

    A line of ``<workdir>/metrics.jsonl`` is ``{"step": 20, "loss": 0.5}``. A scalar
    that is NaN or infinite is written as null, which JSON can hold, and its name is
    listed under "nonfinite". TensorBoard reads ``<workdir>/tensorboard``.

    Args:
        folder: of the run; created if needed. Unless ``folder.is_writer`` all methods
            do nothing. Records of steps after ``folder.first`` are removed.
    """

    def __init__(self, folder: RunFolder):
        self._lines = None
        if not folder.is_writer:
            return
        folder.path.mkdir(parents=True, exist_ok=True)
        path = folder.path / "metrics.jsonl"
        truncate_after(path, folder.first)
        self._lines = path.open("a", encoding="utf-8")
        self._board = tensorboardX.SummaryWriter(
            str(folder.path / "tensorboard"),
            purge_step=None if folder.first is None else folder.first + 1,
            filename_suffix=f".{time.time_ns()}",
        )

    def write(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Writes one line of scalars.

        Args:
            step: optimizer step they belong to.
            scalars: name to number, or to an array without axes.

        Raises:
            ValueError: a scalar has the name "step" or "nonfinite".
        """
        if self._lines is None:
            return
        for name in ("step", "nonfinite"):
            if name in scalars:
                raise ValueError(
                    f"scalars holds the name {name!r}, which metrics.jsonl uses "
                    f"itself; wanted any other name; use 'train/{name}'."
                )
        values = {name: float(value) for name, value in scalars.items()}
        nonfinite = [name for name, value in values.items() if not math.isfinite(value)]
        line = {"step": int(step), **values, **dict.fromkeys(nonfinite)}
        if nonfinite:
            line["nonfinite"] = nonfinite
        self._lines.write(json.dumps(line, allow_nan=False) + "\n")
        self._lines.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def write_video(
        self, step: int, name: str, frames: UInt8[np.ndarray, "t h w 3"], fps: float
    ) -> None:
        """Shows a clip in TensorBoard, as an animated GIF among the images."""
        if self._lines is None:
            return
        _, height, width, _ = frames.shape
        image = summary_pb2.Summary.Image(
            height=height,
            width=width,
            colorspace=3,
            encoded_image_string=media.encode_gif(frames, fps),
        )
        value = summary_pb2.Summary.Value(tag=name, image=image)
        self._board.file_writer.add_summary(summary_pb2.Summary(value=[value]), step)

    def write_text(self, step: int, name: str, text: str) -> None:
        """Shows a text in TensorBoard; Markdown is rendered."""
        if self._lines is not None:
            self._board.add_text(name, text, step)

    def close(self) -> None:
        """Flushes. The writer does nothing from then on."""
        if self._lines is not None:
            self._lines.close()
            self._board.close()
            self._lines = None

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
