"""CLIP's tokenizer: byte pair encoding of lower-case words.

Read from the files of a Hugging Face folder (``vocab.json`` and ``merges.txt``) or from
OpenAI's ``bpe_simple_vocab_16e6.txt.gz``. OpenAI's tokenizer first repairs a caption
(mojibake, HTML entities), Hugging Face's does not; scores use OpenAI's.
"""

import functools
import gzip
import hashlib
import html
import json
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import ftfy
import numpy as np
import regex
from jaxtyping import Int32

CONTEXT = 77
START, END = "<|startoftext|>", "<|endoftext|>"
VOCABULARY, MERGES = "vocab.json", "merges.txt"
OPENAI = "bpe_simple_vocab_16e6.txt.gz"
OPENAI_MERGES = 49152 - 256 - 2
"""Number of the file's merges that CLIP uses; the file has more."""
WORD_END = "</w>"
WORDS = regex.compile(
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d"
    r"|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)


class Tokenizer:
    """Captions to rows of tokens.

    Args:
      vocabulary: token to id.
      merges: pairs of tokens to merge, by priority.

    Attributes:
      sha256: of the vocabulary and the merges.

    Raises:
      ValueError: the vocabulary lacks a byte, a merge or a special token.
    """

    def __init__(
        self, vocabulary: dict[str, int], merges: Sequence[tuple[str, str]]
    ) -> None:
        letters = set(_letters().values())
        wanted = {START, END} | letters | {letter + WORD_END for letter in letters}
        wanted |= {first + second for first, second in merges}
        missing = sorted(wanted - vocabulary.keys())
        if missing:
            raise ValueError(
                f"The vocabulary lacks {len(missing)} tokens, as {missing[:5]}; use "
                f"the {VOCABULARY} and {MERGES} of one tokenizer."
            )
        self._vocabulary = vocabulary
        self._ranks = {pair: rank for rank, pair in enumerate(merges)}
        whole = json.dumps([vocabulary, merges], sort_keys=True).encode()
        self.sha256 = hashlib.sha256(whole).hexdigest()
        self._word = functools.lru_cache(maxsize=2**16)(self._word_tokens)

    def __len__(self) -> int:
        return len(self._vocabulary)

    def tokens(self, caption: str, repair: bool = True) -> list[int]:
        """All token ids of a caption, between the two special ones.

        Args:
          caption: any text.
          repair: first undo mojibake and HTML entities, as OpenAI does.
        """
        if repair:
            caption = html.unescape(html.unescape(ftfy.fix_text(caption)))
        text = unicodedata.normalize("NFC", caption).lower()
        numbers = [self._vocabulary[START]]
        for word in WORDS.findall(text):
            numbers.extend(self._word(word))
        return [*numbers, self._vocabulary[END]]

    def encode(
        self, captions: Sequence[str], context: int = CONTEXT
    ) -> tuple[Int32[np.ndarray, "b n"], int]:
        """Rows of ``context`` token ids, padded with 0, and the number truncated.

        A caption that is too long is truncated, and its last token is the end token.
        """
        rows, cut = np.zeros((len(captions), context), np.int32), 0
        for row, caption in zip(rows, captions, strict=True):
            found = self.tokens(caption)
            if len(found) > context:
                cut += 1
                found = [*found[: context - 1], self._vocabulary[END]]
            row[: len(found)] = found
        return rows, cut

    def _word_tokens(self, word: str) -> tuple[int, ...]:
        if word in (START, END):
            return (self._vocabulary[word],)
        letters = _letters()
        parts = [letters[byte] for byte in word.encode("utf-8", "replace")]
        parts[-1] += WORD_END
        while len(parts) > 1:
            pairs = list(zip(parts, parts[1:], strict=False))
            best = min(pairs, key=lambda pair: self._ranks.get(pair, len(self._ranks)))
            if best not in self._ranks:
                break
            parts = _merged(parts, best)
        return tuple(self._vocabulary[part] for part in parts)


def read_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a folder.

    Raises:
      ValueError: its files are missing or damaged; names them.
    """
    pair = folder / VOCABULARY, folder / MERGES
    if all(path.is_file() for path in pair):
        try:
            vocabulary = json.loads(pair[0].read_text("utf-8"))
            lines = pair[1].read_text("utf-8").splitlines()
            return Tokenizer(vocabulary, _merges(lines[1:]))
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{pair[0]} or {MERGES} is damaged: {error}") from error
    path = folder / OPENAI
    if path.is_file():
        try:
            lines = gzip.decompress(path.read_bytes()).decode("utf-8").splitlines()
        except (OSError, EOFError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is damaged: {error}") from error
        return Tokenizer(*openai_vocabulary(_merges(lines[1 : 1 + OPENAI_MERGES])))
    raise ValueError(
        f"{folder} has no tokenizer of CLIP: put {VOCABULARY} and {MERGES} there (of "
        f"openai/clip-vit-base-patch32), or {OPENAI} (of github.com/openai/CLIP)."
    )


def openai_vocabulary(
    merges: Sequence[tuple[str, str]],
) -> tuple[dict[str, int], Sequence[tuple[str, str]]]:
    """The vocabulary that follows from OpenAI's list of merges, and the merges."""
    letters = list(_letters().values())
    tokens = letters + [letter + WORD_END for letter in letters]
    tokens += [first + second for first, second in merges] + [START, END]
    return {token: number for number, token in enumerate(tokens)}, merges


def _merges(lines: Sequence[str]) -> list[tuple[str, str]]:
    pairs = [tuple(line.split()) for line in lines if line.strip()]
    wrong = [pair for pair in pairs if len(pair) != 2]
    if wrong:
        raise ValueError(f"its merges hold {' '.join(wrong[0])!r}, not a pair")
    return pairs


def _merged(parts: Sequence[str], pair: tuple[str, str]) -> list[str]:
    """Merges every occurrence of a pair, from the left."""
    out: list[str] = []
    i = 0
    while i < len(parts):
        if tuple(parts[i : i + 2]) == pair:
            out.append(parts[i] + parts[i + 1])
            i += 2
        else:
            out.append(parts[i])
            i += 1
    return out


@functools.cache
def _letters() -> dict[int, str]:
    """Byte to a visible character: its own, or one from 256 on for invisible bytes.

    In the order of the vocabulary: visible bytes first.
    """
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in visible]
    letters = {byte: chr(byte) for byte in visible}
    return letters | {byte: chr(256 + i) for i, byte in enumerate(others)}
