"""The interface that every network implements.

The train step, the sampler, plans and benchmarks use nothing else of a network. It is a
Flax module with the call ``(noisy, c_noise, context, previous, train) -> (F, carry)``;
the carry, which one call passes to the next, is empty for networks without latents.
"""

import dataclasses
from typing import Any, Protocol, runtime_checkable

import flax.linen as nn


@dataclasses.dataclass(frozen=True)
class ResourceEstimate:
    """Resources estimated from shapes, of one sample and one pass.

    Attributes:
      activations: bytes saved for or used by the backward pass, under ``remat``.
      exchanged: values exchanged between devices that share a clip's heads or tokens.
      narrowest: rows of the narrowest of the large kernels, which fsdp divides.
      parts: tokens that the mesh axis context divides; 1 where it divides none.
    """

    activations: float
    exchanged: float
    narrowest: int
    parts: int


@runtime_checkable
class Network(Protocol):
    """A network, in addition to its methods as a Flax module.

    Attributes:
      frames, height, width: of the clips it takes, from the data.
      in_channels, out_channels: colour channels it reads and returns.
      dtype: of its computation.
      remat: what the backward pass recomputes; see `models.remat`.
      is_upsampler: whether it also reads a low-resolution clip.
      self_conditions: whether it uses the carry of the previous call.
    """

    frames: int
    height: int
    width: int
    in_channels: int
    out_channels: int
    dtype: str
    remat: str
    is_upsampler: bool
    self_conditions: bool

    def validate(self) -> None:
        """Raises ValueError, naming a field and a cure, where sizes do not fit."""

    def no_latents(self, batch: int) -> Any:
        """The carry of a first call."""

    def tokens(self, text_tokens: int) -> dict[str, int]:
        """Numbers of its tokens in one clip, by kind."""

    def forward_flops(self, text_tokens: int, text_width: int) -> dict[str, float]:
        """FLOPs of one forward pass of one clip, by part of the network."""

    def resource_estimate(self) -> ResourceEstimate:
        """Resources of one sample, for plans that do not compile."""


class FirstStage(nn.Module):
    """Base of networks that are first stages without latents."""

    is_upsampler = False
    self_conditions = False

    @property
    def padded_height(self) -> int:
        return self.height + sum(self.pad_height)

    def check_channels(self) -> None:
        """Raises ValueError where a network is not to read and return 3 channels."""
        if (self.in_channels, self.out_channels) != (3, 3):
            raise ValueError(
                f"model.in_channels={self.in_channels} and model.out_channels="
                f"{self.out_channels}: this network is a first stage; use 3 and 3."
            )

    def no_latents(self, batch: int) -> tuple[()]:
        """The carry of every call, which is empty."""
        return ()
