"""The cost of text for a training run, online and cached, without encoding."""

import dataclasses

from snapvideo_jax.io.messages import human_bytes
from snapvideo_jax.models.t5 import T5Sizes, encoder_flops, encoder_parameters
from snapvideo_jax.text.cache import BFLOAT16, KEY_BYTES

SHORTEST = 16
"""Shortest length, in tokens, that captions of a cache are padded to."""


def padded_length(length: int, tokens: int) -> int:
    """The length that captions are padded to: 16, 32, 64, ... up to ``tokens``."""
    padded = SHORTEST
    while padded < length:
        padded *= 2
    return min(padded, tokens)


@dataclasses.dataclass(frozen=True)
class TextPlan:
    """The captions, encoder and training whose cost is computed.

    captions: distinct captions of the data.
    mean_tokens: their mean length, including the end token.
    tokens: length that captions are cut and padded to in training.
    sizes: of the encoder.
    batch: samples of a global batch.
    step_seconds: time of a training step without text.
    step_flops: its model FLOPs.
    """

    captions: int
    mean_tokens: float
    tokens: int
    sizes: T5Sizes
    batch: int
    step_seconds: float
    step_flops: float

    def answer(self) -> dict[str, float]:
        """Bytes, GB/s and FLOPs, by name."""
        embedding = self.mean_tokens * self.sizes.width * BFLOAT16.itemsize
        online = self.batch * encoder_flops(self.sizes, self.tokens)
        padded = padded_length(round(self.mean_tokens), self.tokens)
        parameters = encoder_parameters(self.sizes)
        return {
            "cache_bytes": self.captions * (embedding + KEY_BYTES),
            "index_bytes_in_memory": self.captions * (KEY_BYTES + 8),
            "read_gb_per_second": self.batch * embedding / self.step_seconds / 1e9,
            "encoder_parameters": parameters,
            "encoder_bytes": parameters * BFLOAT16.itemsize,
            "online_flops_per_step": online,
            "online_share_of_step": online / self.step_flops,
            "cached_flops": self.captions * encoder_flops(self.sizes, padded),
        }

    def describe(self) -> str:
        """The answer as text."""
        found = self.answer()
        return "\n".join(
            [
                f"captions         {self.captions:,} of {self.mean_tokens:g} tokens",
                f"encoder          {found['encoder_parameters']:,} parameters, "
                f"{human_bytes(found['encoder_bytes'])} in bfloat16",
                f"online           {found['online_flops_per_step']:.3g} FLOPs a step "
                f"of {self.batch:,} samples of {self.tokens} tokens, "
                f"{100 * found['online_share_of_step']:.3g} % of the step's own",
                f"cached           {human_bytes(found['cache_bytes'])} of files, "
                f"{human_bytes(found['index_bytes_in_memory'])} of memory in every "
                "process",
                f"  to read        {found['read_gb_per_second']:.3g} GB/s in all, at "
                f"{self.step_seconds:g} s a step",
                f"  to make        {found['cached_flops']:.3g} FLOPs once, as many as "
                f"{found['cached_flops'] / found['online_flops_per_step']:,.0f} steps "
                "take online",
            ]
        )
