"""The interface of all text encoders.

A network sees a caption as ``(embeddings, mask)``. A `TextEncoder` computes them from
fixed vectors of words (`text.hash`), with T5 on the devices that train (`text.t5`), or
reads those that T5 computed before (`text.cache`).
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Bool, Shaped


@runtime_checkable
class TextEncoder(Protocol):
    """A frozen text encoder: one part on the host, one on the devices.

    tokens: context tokens of every caption (n).
    width: channels of a context token (f).
    """

    tokens: int
    width: int

    def encode(
        self, captions: Sequence[str]
    ) -> tuple[Shaped[np.ndarray, "b n *f"], Bool[np.ndarray, "b n"]]:
        """The input of `on_devices`, and a mask, True up to the caption's length.

        For most encoders the input is the embeddings, zero past the length.
        """
        ...

    def check(self, captions: Iterable[str]) -> None:
        """Raises ValueError if captions cannot be encoded, and names the first.

        An encoder that accepts any text does not iterate over them.
        """

    def on_devices(self, mesh: Any) -> Callable[[Array, Array], Array]:
        """A function from the outputs of `encode`, on a mesh, to embeddings.

        Its arguments and its result (``b n f``) are sharded by
        `sharding.batch_sharding`; all processes must call it.
        """
        del mesh
        return lambda text_input, text_mask: text_input


def refuse_lone_string(captions: Sequence[str]) -> None:
    """Raises ValueError if ``captions`` is a string instead of a list of strings."""
    if isinstance(captions, str):
        raise ValueError(
            f"captions={captions!r} is one string; wanted a sequence of strings; "
            f"use [{captions!r}]."
        )


def is_blank(caption: str) -> bool:
    """Whether a caption has no tokens, so that the network uses its null token."""
    return not caption.strip()


def refuse_long(encoder: TextEncoder, captions: Iterable[str]) -> None:
    """Raises ValueError if a prompt has more tokens than the network's context.

    Captions of training are cut instead. A cache does not know numbers of tokens and
    accepts all.
    """
    count = getattr(encoder, "count", None)
    for caption in captions if count else ():
        if (tokens := count(caption)) > encoder.tokens:
            raise ValueError(
                f"The prompt {caption!r} has {tokens} tokens; this run takes "
                f"{encoder.tokens} (text.tokens); use a shorter one."
            )
