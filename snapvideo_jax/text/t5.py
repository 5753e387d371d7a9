"""Captions to T5 embeddings: tokens on the host, the encoder on the devices."""

import functools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import sentencepiece
from jaxtyping import Array, Bool, Float32, Int, Int32

from snapvideo_jax.models.t5 import T5Encoder
from snapvideo_jax.parallel.sharding import batch_sharding, with_layout
from snapvideo_jax.text import checkpoint, files
from snapvideo_jax.text.encoder import TextEncoder, is_blank, refuse_lone_string

PAD, END = 0, 1
"""Token ids of T5's padding and end of sequence."""


class T5Text(TextEncoder):
    """A T5 encoder from a folder: config.json, spiece.model and weights.

    Files are read on first use, so that a training run can be planned on a machine
    without the folder. `encode` returns token ids, `on_devices` embeds them.

    Args:
        path: the folder.
        tokens: longest caption in tokens, including the end token, >= 1.
        width: channels of an embedding; must equal the encoder's.
        dtype: of the computation.

    Raises:
        ValueError: ``tokens`` is too small.
    """

    def __init__(self, path: str, tokens: int, width: int, dtype: str = "bfloat16"):
        if tokens < 1:
            raise ValueError(f"text.tokens={tokens} is too small; use at least 1.")
        self.tokens = tokens
        self.width = width
        self._folder = Path(path)
        self._dtype = dtype
        self._embedders: dict[Any, Callable] = {}

    def encode(
        self, captions: Sequence[str]
    ) -> tuple[Int32[np.ndarray, "b n"], Bool[np.ndarray, "b n"]]:
        """Token ids, and a mask, True up to a caption's length; 0 for a blank one.

        Raises:
            ValueError: the folder has no T5 tokenizer, or ``captions`` is a string.
        """
        refuse_lone_string(captions)
        ids = np.full((len(captions), self.tokens), PAD, np.int32)
        mask = np.zeros(ids.shape, bool)
        for i, caption in enumerate(captions):
            if not is_blank(caption):
                pieces = self._pieces(caption)
                ids[i, : len(pieces)], mask[i, : len(pieces)] = pieces, True
        return ids, mask

    def check(self, captions: Iterable[str]) -> None:
        """Raises ValueError if the folder is not that of a T5 encoder, as `encode`."""
        del captions  # all can be encoded
        _ = self._tokenizer

    def on_devices(self, mesh) -> Callable[[Array, Array], Array]:
        """As `TextEncoder.on_devices`; loads the weights on the first call for a mesh.

        Raises:
            ValueError: files are missing, damaged or do not match config.json, or
                ``width`` is not that of the embeddings.
        """
        if mesh not in self._embedders:
            model = T5Encoder(self._sizes, self._dtype)
            params = checkpoint.load_params(self._folder, model, mesh)
            embed = jax.jit(
                with_layout(functools.partial(_embed, model), mesh),
                out_shardings=batch_sharding(mesh),
            )
            self._embedders[mesh] = functools.partial(embed, params)
        return self._embedders[mesh]

    def manifest(self) -> dict[str, Any]:
        """The manifest of a cache of this encoder."""
        return {
            "encoder": str(self._folder),
            "fingerprint": files.fingerprint(self._folder),
            "tokens": self.tokens,
            "width": self.width,
            "dtype": self._dtype,
        }

    def count(self, caption: str) -> int:
        """Number of tokens of a caption, without cutting it."""
        return 0 if is_blank(caption) else len(self._all_pieces(caption)) + 1

    def _pieces(self, caption: str) -> list[int]:
        return [*self._all_pieces(caption)[: self.tokens - 1], END]

    def _all_pieces(self, caption: str) -> list[int]:
        text = caption.encode("utf-8", "replace").decode()  # no lone surrogates
        return self._tokenizer.encode(text)

    @functools.cached_property
    def _sizes(self):
        sizes = files.read_sizes(self._folder)
        if sizes.width != self.width:
            raise ValueError(
                f"text.width={self.width}, but embeddings of {self._folder} have "
                f"{sizes.width} channels; use text.width={sizes.width}."
            )
        return sizes

    @functools.cached_property
    def _tokenizer(self) -> sentencepiece.SentencePieceProcessor:
        sizes, path = self._sizes, self._folder / files.TOKENIZER
        try:
            found = sentencepiece.SentencePieceProcessor(model_file=str(path))
        except (RuntimeError, OSError) as error:
            raise ValueError(
                f"{path} is not a SentencePiece model ({error})."
            ) from error
        if (found.pad_id(), found.eos_id()) != (PAD, END):
            raise ValueError(
                f"{path} has id {found.pad_id()} for padding and {found.eos_id()} for "
                f"the end; those of T5 are {PAD} and {END}."
            )
        if found.vocab_size() > sizes.vocabulary:
            raise ValueError(
                f"{path} has {found.vocab_size()} pieces, but the encoder of this "
                f"folder has {sizes.vocabulary}."
            )
        return found


def _embed(
    model: T5Encoder, params: Any, ids: Int[Array, "b n"], mask: Bool[Array, "b n"]
) -> Float32[Array, "b n f"]:
    """Embeddings, zero past the length, rounded to bfloat16 like those of a cache."""
    out = model.apply({"params": params}, ids, mask)
    out = jnp.where(mask[..., None], out, 0)
    return jax.lax.reduce_precision(out, exponent_bits=8, mantissa_bits=7)
