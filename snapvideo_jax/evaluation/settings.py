"""Options of an evaluation: everything that changes a number has a name here."""

import dataclasses
import re
from pathlib import Path
from typing import Any, Literal

from snapvideo_jax.evaluation.clips import Position, Selection
from snapvideo_jax.evaluation.preprocess import MIN_FRAMES, VARIANTS, default_variant

NETWORK_OF = {
    "fvd": "i3d",
    "fid": "inception",
    "is": "c3d",
    "clipsim": "clip",
    "clip_fid": "clip",
}
"""Metric to network."""
FRECHET = ("fvd", "fid", "clip_fid")
"""Metrics that compare generated clips with real ones."""
VARIANT_OPTIONS = {"i3d": "fvd", "inception": "fid", "clip": "clip"}
"""Network to the option that chooses its preprocessing."""
DDOF = 1
"""Subtracted from the number of samples in a covariance."""
SPLITS_SEED = 42
"""Seed that assigns samples to the splits of the Inception score."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScorerOptions:
    """Networks, and how the work is divided.

    Attributes:
      weights: folder of NETWORK.safetensors, written by `snapvideo convert`.
      features: "random:SEED" uses random networks instead, to try things out.
      fvd, fid, clip: preprocessing variant of I3D, Inception and CLIP; None is the
        first one of `preprocess.VARIANTS`.
      splits: of the Inception score.
      batch: clips that are computed at once.
      shards: parts of a set that can be resumed.
      threads: that read clips; None is the number of cores.
    """

    weights: Path | None = None
    features: str | None = None
    fvd: str | None = None
    fid: str | None = None
    clip: str | None = None
    splits: int = 10
    batch: int = 8
    shards: int = 8
    threads: int | None = None

    def __post_init__(self):
        if bool(self.weights) == bool(self.features):
            raise ValueError(
                "Give --weights DIR (made by snapvideo convert), or --features "
                "random:SEED to try everything out with random networks."
            )
        if self.features and not re.fullmatch(r"random:\d+", self.features):
            raise ValueError(
                f"--features={self.features} is unknown; use random:SEED, as random:0."
            )
        for network in VARIANT_OPTIONS:
            if self.variant(network) not in VARIANTS[network]:
                raise ValueError(
                    f"--{VARIANT_OPTIONS[network]}={self.variant(network)} is unknown; "
                    f"use one of {', '.join(VARIANTS[network])}."
                )

    def variant(self, network: str) -> str:
        """The preprocessing variant of a network."""
        chosen = getattr(self, VARIANT_OPTIONS.get(network, ""), None)
        return chosen or default_variant(network)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateOptions(ScorerOptions):
    """Options of `snapvideo evaluate`.

    Attributes:
      clips: the generated clips: a folder, a manifest or an .npz.
      out: folder of the result, the statistics and the shards.
      against: real clips or their statistics; None computes what needs neither.
      metrics: of `NETWORK_OF`.
      frames: of each clip.
      fps: frame rate that frames are taken at; None takes consecutive frames.
      position: of the first frame.
      real_fps, real_position: of the real clips; None is ``fps`` and ``position``.
      seed: of random positions.
      size: height and width that all clips are resized to first; None leaves them.
      view: "native", or "square" for the central square.
      image_frames: of each clip for FID and CLIP-FID: "all", "middle", or how many,
        evenly spaced. CLIPSIM takes all.

    Raises:
      ValueError: an option is unknown or does not suit another one.
    """

    clips: Path
    out: Path
    against: Path | None = None
    metrics: tuple[str, ...] = ("fvd",)
    frames: int = 16
    fps: float | None = None
    position: Position = "start"
    real_fps: float | None = None
    real_position: Position | None = None
    seed: int = 0
    size: tuple[int, int] | None = None
    view: Literal["native", "square"] = "native"
    image_frames: str = "all"

    def __post_init__(self):
        super().__post_init__()
        unknown = [name for name in self.metrics if name not in NETWORK_OF]
        if unknown or not self.metrics:
            raise ValueError(
                f"--metrics={','.join(self.metrics)} has to name some of "
                f"{', '.join(NETWORK_OF)}."
            )
        for metric in self.metrics:
            least = MIN_FRAMES.get(NETWORK_OF[metric], 1)
            if self.frames < least or (metric == "is" and self.frames != least):
                exact = "exactly" if metric == "is" else "at least"
                raise ValueError(
                    f"--frames={self.frames} does not suit {metric}, whose network "
                    f"takes {exact} {least} frames; use --frames={least}, or leave "
                    f"{metric} out."
                )
        if self.size is not None and min(self.size) < 1:
            raise ValueError(f"--size={self.size} is too small; use 1 or more.")
        self.selection(is_real=False), self.selection(is_real=True)
        self.image_indices()

    def selection(self, is_real: bool) -> Selection:
        """Which frames of the real or of the generated clips are scored."""
        fps, position = self.fps, self.position
        if is_real:
            fps = fps if self.real_fps is None else self.real_fps
            position = self.real_position or position
        return Selection(self.frames, fps, position, self.seed)

    def metrics_of(self, is_real: bool) -> tuple[str, ...]:
        """The metrics that need features of the real or of the generated clips."""
        return tuple(m for m in self.metrics if m in FRECHET or not is_real)

    def networks(self) -> tuple[str, ...]:
        """The networks that the metrics need, each once."""
        return tuple(dict.fromkeys(NETWORK_OF[metric] for metric in self.metrics))

    def image_indices(self) -> tuple[int, ...]:
        """Indices of a clip's frames that count for FID and CLIP-FID.

        Raises:
          ValueError: ``image_frames`` is not one of the three.
        """
        frames, asked = self.frames, self.image_frames
        if asked == "all":
            return tuple(range(frames))
        if asked == "middle":
            return (frames // 2,)
        if not asked.isdecimal() or not 1 <= int(asked) <= frames:
            raise ValueError(
                f"--image_frames={asked} makes no sense; use all, middle, or a number "
                f"of 1 to {frames}."
            )
        count = int(asked)
        return tuple((2 * i + 1) * frames // (2 * count) for i in range(count))

    def protocol(
        self, metric: str, weights: str, tokenizer: str = ""
    ) -> dict[str, Any]:
        """The settings that two values of a metric must share to be comparable.

        Args:
          metric: one of ``metrics``.
          weights: SHA-256 of the network's weights.
          tokenizer: SHA-256 of the tokenizer of CLIPSIM.
        """
        network = NETWORK_OF[metric]
        found: dict[str, Any] = {
            "metric": metric,
            "network": network,
            "weights_sha256": weights,
            "preprocess": self.variant(network),
            "frames": self.frames,
            "size": list(self.size) if self.size else None,
            "view": self.view,
        }
        if metric in ("fid", "clip_fid"):
            found["image_frames"] = self.image_frames
        if metric in FRECHET:
            found["ddof"] = DDOF
        if metric == "is":
            found |= {"splits": self.splits, "splits_seed": SPLITS_SEED}
        if metric == "clipsim":
            found["tokenizer_sha256"] = tokenizer
        return found
