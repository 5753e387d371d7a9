"""The settings of the text encoder."""

import dataclasses

from snapvideo_jax.text.cache import CachedText
from snapvideo_jax.text.encoder import TextEncoder
from snapvideo_jax.text.hash import HashTextEncoder
from snapvideo_jax.text.t5 import T5Text

ENCODERS = {"hash": HashTextEncoder, "t5": T5Text, "cached": CachedText}


@dataclasses.dataclass(frozen=True)
class Text:
    """The frozen text encoder.

    Attributes:
      name: "hash", the weight-free stand-in `text.HashTextEncoder`; "t5", an encoder
        on the devices that train; "cached", embeddings of `snapvideo encode_text`.
      path: folder of the T5 encoder or of the cache.
      tokens: longest caption, in tokens. [C] 128 for the paper's models.
      width: channels of an embedding. [P] 1024 for T5-11B.
    """

    name: str = "hash"
    path: str = ""
    tokens: int = 128
    width: int = 1024

    def __post_init__(self):
        if self.name not in ENCODERS:
            raise ValueError(
                f"text.name={self.name!r} is unknown; use {sorted(ENCODERS)}."
            )
        if (self.name == "hash") == bool(self.path):
            raise ValueError(
                f"text.path={self.path!r} and text.name={self.name!r} do not match: "
                "'t5' and 'cached' need a folder, 'hash' has none."
            )

    def encoder(self) -> TextEncoder:
        """The encoder, which reads its folder on first use."""
        folder = {"path": self.path} if self.path else {}
        return ENCODERS[self.name](tokens=self.tokens, width=self.width, **folder)
