"""Captions to frozen text embeddings.

encoder         the interface of all encoders
hash            the stand-in that needs no weights
t5              T5 on the devices that train; checkpoint and files read its folder
cache           embeddings that `snapvideo encode_text` wrote; encode writes them
costs           the cost of text, online and cached
config          settings
"""

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
