"""What is scored and how: everything that changes a number, with a name."""

import dataclasses
from typing import Any

from snapvideo_jax.evaluation.clips import Selection
from snapvideo_jax.evaluation.preprocess import MIN_FRAMES, VARIANTS, default

NETWORK_OF = {
    "fvd": "i3d",
    "fid": "inception",
    "is": "c3d",
    "clipsim": "clip",
    "clip_fid": "clip",
}
"""The network of every metric."""
FRECHET = ("fvd", "fid", "clip_fid")
"""Metrics that compare with real clips."""
VIEWS = ("native", "square")
DDOF = 1
"""Subtracted from the number of samples in a covariance."""


@dataclasses.dataclass(frozen=True)
class Scoring:
    """How clips are scored.

    Attributes:
      metrics: of `NETWORK_OF`.
      selection: frames of the clips.
      against: frames of the real clips, which may be taken in another way; None for
        the same.
      size: height and width that all clips are brought to first; None leaves them.
      view: "native", or "square" for the middle square.
      image_frames: of each clip for FID and CLIP-FID: "all", "middle", or how many,
        evenly spaced. CLIPSIM takes all.
      variants: of the preparation for a network, by network.
      splits, seed: of the Inception score.
    """

    metrics: tuple[str, ...]
    selection: Selection = Selection()
    against: Selection | None = None
    size: tuple[int, int] | None = None
    view: str = "native"
    image_frames: str = "all"
    variants: dict[str, str] = dataclasses.field(default_factory=dict)
    splits: int = 10
    seed: int = 42

    def __post_init__(self):
        unknown = [name for name in self.metrics if name not in NETWORK_OF]
        if unknown or not self.metrics:
            raise ValueError(
                f"--metrics={','.join(self.metrics)} has to name some of "
                f"{', '.join(NETWORK_OF)}."
            )
        frames = self.selection.frames
        for metric in self.metrics:
            least = MIN_FRAMES.get(NETWORK_OF[metric], 1)
            if frames < least or (metric == "is" and frames != least):
                exact = "exactly" if metric == "is" else "at least"
                raise ValueError(
                    f"--frames={frames} does not suit {metric}, whose network takes "
                    f"{exact} {least} frames; use --frames={least}, or leave "
                    f"{metric} out."
                )
        if self.against is not None and self.against.frames != frames:
            raise ValueError("Real and generated clips need the same --frames.")
        if self.view not in VIEWS:
            raise ValueError(f"--view={self.view!r} is unknown; use one of {VIEWS}.")
        if self.size is not None and min(self.size) < 1:
            raise ValueError(f"--size={self.size} is too small; use 1 or more.")
        if self.splits < 1:
            raise ValueError(f"--splits={self.splits} is too small; use 1 or more.")
        for network, name in self.variants.items():
            if name not in VARIANTS[network]:
                raise ValueError(
                    f"{name!r} is no way to prepare clips for {network}; use one of "
                    f"{', '.join(VARIANTS[network])}."
                )
        self.image_places()

    def networks(self) -> tuple[str, ...]:
        """Those that the metrics need, each once."""
        return tuple(dict.fromkeys(NETWORK_OF[metric] for metric in self.metrics))

    def variant(self, network: str) -> str:
        return self.variants.get(network, default(network))

    def image_places(self) -> tuple[int, ...]:
        """Which of a clip's frames count for FID and CLIP-FID.

        Raises:
          ValueError: ``image_frames`` makes no sense.
        """
        frames, asked = self.selection.frames, self.image_frames
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
        """What two numbers of a metric must have in common to be compared.

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
            "frames": self.selection.frames,
            "size": list(self.size) if self.size else None,
            "view": self.view,
        }
        if metric in ("fid", "clip_fid"):
            found["image_frames"] = self.image_frames
        if metric in FRECHET:
            found["ddof"] = DDOF
        if metric == "is":
            found |= {"splits": self.splits, "splits_seed": self.seed}
        if metric == "clipsim":
            found["tokenizer_sha256"] = tokenizer
        return found
