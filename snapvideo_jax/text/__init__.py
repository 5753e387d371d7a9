"""Captions to frozen text embeddings. The encoder with weights is in `text.t5`."""

from snapvideo_jax.text.cache import CachedText
from snapvideo_jax.text.encoder import TextEncoder
from snapvideo_jax.text.hash import HashTextEncoder, split_words, word_vector

__all__ = [
    "CachedText",
    "HashTextEncoder",
    "TextEncoder",
    "split_words",
    "word_vector",
]
