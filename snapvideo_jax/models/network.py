"""What every network tells of itself, so that nobody has to ask which one it is.

The train step, the sampler, plans and benchmarks know networks by this alone. A network
is a Flax module with the call ``(noisy, c_noise, context, previous, train) -> (F,
carry)``; what one call hands to the next, the carry, is empty for those that have no
latents.
"""

import dataclasses
from typing import Any, Protocol, runtime_checkable


@dataclasses.dataclass(frozen=True)
class ResourceEstimate:
    """What a plan that compiles nothing goes by; all of one sample and one pass.

    Attributes:
      activations: bytes that the backward pass keeps or has in use, by ``remat``.
      exchanged: values that devices which share a clip's heads or tokens exchange.
      narrowest: rows of the narrowest of its large kernels, which fsdp divides.
      parts: tokens that the context axis divides; 1 where it divides none.
    """

    activations: float
    exchanged: float
    narrowest: int
    parts: int


@runtime_checkable
class Network(Protocol):
    """A network, beside what it is as a Flax module.

    Attributes:
      frames, height, width: of the clips it takes, from the data.
      in_channels, out_channels: colour channels it reads and gives.
      dtype: what it is computed in.
      remat: what the backward pass keeps; see `models.remat`.
      is_upsampler: whether it reads a small clip too.
      self_conditions: whether its carry helps the next call.
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
        """How many it has of what, in one clip."""

    def forward_flops(self, text_tokens: int, text_width: int) -> dict[str, float]:
        """FLOPs of one forward pass of one clip, by part of the network."""

    def resource_estimate(self) -> ResourceEstimate:
        """What a plan that compiles nothing goes by."""
