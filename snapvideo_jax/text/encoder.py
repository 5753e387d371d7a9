"""What all text encoders have in common.

A network sees a caption only as ``(embeddings, mask)``; anything with the methods of
`TextEncoder` can make them: fixed vectors of words (`text.hash`), T5 on the devices
that train (`text.t5`), or embeddings that T5 made beforehand (`text.cache`).
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Bool, Shaped


@runtime_checkable
class TextEncoder(Protocol):
    """A frozen text encoder, in two halves: on the host, and on the devices.

    tokens: number of context tokens of every caption (n).
    width: elements of one context token (f).
    """

    tokens: int
    width: int

    def encode(
        self, captions: Sequence[str]
    ) -> tuple[Shaped[np.ndarray, "b n *f"], Bool[np.ndarray, "b n"]]:
        """The input of `on_devices`, and a mask, True up to the length.

        For most encoders these are the embeddings already, zero past the length.
        """
        ...

    def check(self, captions: Iterable[str]) -> None:
        """Raises ValueError where some cannot be encoded, naming the first of them.

        An encoder that takes any text does not look at them.
        """

    def on_devices(self, mesh: Any) -> Callable[[Array, Array], Array]:
        """A function from what `encode` returns, placed on a mesh, to embeddings.

        Its arguments are sharded as by `sharding.batch_sharding`, and its result
        (``b n f``) likewise; where there are several processes, all have to call it.
        """
        del mesh
        return lambda text_input, text_mask: text_input


def refuse_lone_string(captions: Sequence[str]) -> None:
    """Raises ValueError where ``captions`` is one string instead of a list of them."""
    if isinstance(captions, str):
        raise ValueError(
            f"captions={captions!r} is one string; wanted a sequence of strings; "
            f"use [{captions!r}]."
        )


def is_blank(caption: str) -> bool:
    """Whether a caption has no tokens, so that a network sees its null token."""
    return not caption.strip()


def refuse_long(encoder: TextEncoder, captions: Iterable[str]) -> None:
    """Raises ValueError where a caption has more tokens than a network is told.

    Those of training are cut. Encoders that keep embeddings cannot tell.
    """
    count = getattr(encoder, "count", None)
    for caption in captions if count else ():
        if (tokens := count(caption)) > encoder.tokens:
            raise ValueError(
                f"The prompt {caption!r} has {tokens} tokens; this run takes "
                f"{encoder.tokens} (text.tokens); use a shorter one."
            )
