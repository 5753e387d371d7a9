"""A text encoder without weights, so that a first run needs no download.

It encodes words and their order, which is enough for captions of a small closed
vocabulary. It has no semantics: "dog" is as far from "puppy" as from "seven".
"""

import functools
import hashlib
import logging
import re
import unicodedata
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float32

from snapvideo_jax.text.encoder import TextEncoder, refuse_lone_string

logger = logging.getLogger(__name__)

_WORD = re.compile(r"\w+|[^\w\s]")
_SPELLING_SHARE = 0.3  # of a word vector's variance
_POSITION_SHARE = 0.2  # of a token's variance
_WAVELENGTHS = (4.0, 256.0)  # of the position term, in words


class HashTextEncoder(TextEncoder):
    """Embeds words by a hash of their letters: a stand-in for T5, without semantics.

    A caption is lower-cased and split into words and punctuation marks, each of which
    becomes one token: ``sqrt(0.8) word + sqrt(0.2) position``. Both terms have unit
    mean square, so elements have about unit variance. `word_vector` defines the first;
    the second is a sinusoid with wavelengths of 4 to 256 words. The encoder is
    deterministic: a caption has the same embedding on every machine.

    Args:
        tokens: longest caption in words, >= 1; further words are cut.
        width: channels of an embedding, even, >= 2.

    Attributes:
        cut_captions: number of captions that this process has cut. The first one is
            logged.

    Raises:
        ValueError: ``tokens`` or ``width`` is outside its range.
    """

    def __init__(self, tokens: int = 16, width: int = 64):
        if tokens < 1:
            raise ValueError(
                f"text.tokens={tokens} is below 1, the length of the shortest caption; "
                "use text.tokens=16."
            )
        if width < 2 or width % 2:
            raise ValueError(
                f"text.width={width} is not an even number of at least 2, and the "
                f"position term fills pairs; use text.width={max(2, width + 1)}."
            )
        self.tokens = tokens
        self.width = width
        self.cut_captions = 0

    def encode(
        self, captions: Sequence[str]
    ) -> tuple[Float32[np.ndarray, "b n f"], Bool[np.ndarray, "b n"]]:
        """Embeddings, zero past a caption's length, and a mask, True up to it.

        Args:
            captions: any Unicode text; an empty caption has an all-False mask.

        Raises:
            ValueError: ``captions`` is one string instead of a list of them.
        """
        refuse_lone_string(captions)
        embeddings = np.zeros((len(captions), self.tokens, self.width), np.float32)
        mask = np.zeros((len(captions), self.tokens), bool)
        positions = _position_vectors(self.tokens, self.width)
        for i, caption in enumerate(captions):
            words = split_words(caption)
            if len(words) > self.tokens:
                self._count_cut(caption, len(words))
            for k, word in enumerate(words[: self.tokens]):
                embeddings[i, k] = (
                    np.sqrt(1 - _POSITION_SHARE) * word_vector(word, self.width)
                    + np.sqrt(_POSITION_SHARE) * positions[k]
                )
                mask[i, k] = True
        return embeddings, mask

    def count(self, caption: str) -> int:
        """Number of tokens of a caption, without cutting it."""
        return len(split_words(caption))

    def _count_cut(self, caption: str, words: int) -> None:
        if self.cut_captions == 0:
            logger.warning(
                "Caption %r has %d words and is cut to text.tokens=%d. Further cuts "
                "are not logged; raise text.tokens to avoid them.",
                caption,
                words,
                self.tokens,
            )
        self.cut_captions += 1


def split_words(caption: str) -> list[str]:
    """Lower-cased words and single punctuation marks of a caption, in order."""
    return _WORD.findall(unicodedata.normalize("NFKC", caption).lower())


@functools.lru_cache(maxsize=65536)
def word_vector(word: str, width: int) -> Float32[np.ndarray, "f"]:
    """The vector of a word: mean square 1, nearly orthogonal to those of other words.

    70 % of its variance is Gaussian noise seeded by a hash of the word, 30 % is the
    mean of such noise over its trigrams of letters, so that "circle" and "circles" are
    similar. Cached, hence read-only.
    """
    padded = f"<{word}>"
    runs = [padded[i : i + 3] for i in range(len(padded) - 2)]
    spelling = np.mean([_noise(f"run {run}", width) for run in runs], axis=0)
    vector = np.sqrt(1 - _SPELLING_SHARE) * _unit(
        _noise(f"word {word}", width)
    ) + np.sqrt(_SPELLING_SHARE) * _unit(spelling)
    vector = _unit(vector).astype(np.float32)
    vector.setflags(write=False)
    return vector


def _noise(text: str, width: int) -> np.ndarray:
    """Standard Gaussian noise [f] from a hash of ``text``.

    Computed by Box-Muller on hash bits, because NumPy's generators may change between
    versions, which would silently change all embeddings.
    """
    digest = hashlib.shake_256(text.encode("utf-8", "surrogatepass"))
    bits = np.frombuffer(digest.digest(16 * width), "<u8") >> np.uint64(11)
    radius, angle = np.split((bits + 0.5) * 2.0**-53, 2)
    return np.sqrt(-2 * np.log(radius)) * np.cos(2 * np.pi * angle)


def _unit(vector: np.ndarray) -> np.ndarray:
    """``vector``, scaled to a mean square of 1."""
    return vector / np.sqrt(np.mean(vector**2))


@functools.lru_cache(maxsize=8)
def _position_vectors(tokens: int, width: int) -> np.ndarray:
    """Sinusoidal position vectors [n f] with a mean square of 1."""
    wavelengths = np.geomspace(*_WAVELENGTHS, width // 2)
    angles = 2 * np.pi * np.arange(tokens)[:, None] / wavelengths
    return np.sqrt(2) * np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
