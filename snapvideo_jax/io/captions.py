"""The one reader of captions.jsonl, and of text files with a prompt or caption a line.

A line of captions.jsonl is a JSON object in UTF-8:

    {"file": "videos/0.mp4", "type": "video", "caption": "a cat", "aesthetic": 5.2}

Every command reads it by the same rules:

- A line ends with a line feed, after an optional carriage return, and nowhere else.
  Other separators of Unicode (U+2028, U+0085, ...) are characters of a caption.
- A byte order mark at the start of a line is removed.
- Blank lines are skipped; they count in line numbers.
- ``captions``, a list, may stand in place of ``caption`` or with it, and further keys
  are free; `data.filters` compares them.
- Any other line is an error that names the file and the line. `parse_line` raises it
  for one line, so that `snapvideo prepare` can list the line and continue.
- Text that is not Unicode (bytes in another encoding, half of a surrogate pair) is an
  error too. Training alone accepts it here and refuses the sample later, see
  `read_entries`.
"""

import codecs
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Kind = Literal["video", "image"]
KINDS: tuple[Kind, ...] = ("video", "image")
Fields = Mapping[str, Any]
"""Metadata of a file by name: its line of captions.jsonl, or its record's."""

CAPTIONS = "captions.jsonl"
_FORM = {"file": '"file": ...', "type": '"type": "video" or "image"'}


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of captions.jsonl.

    file: path relative to the folder of the list; "" where it is not required.
    type: of the file; "video" where it is not required.
    captions: all captions without repetition, at least one; ``caption`` is the first.
    fields: the whole object, including the keys above.
    line: number of the line, from 1.
    is_unicode: False where some text is not Unicode and cannot be encoded.
    """

    file: str
    type: Kind
    captions: tuple[str, ...]
    fields: Fields
    line: int = 0
    is_unicode: bool = True

    @property
    def caption(self) -> str:
        """The first caption."""
        return self.captions[0]


def read_entries(
    path: Path,
    require: Sequence[str] = ("file", "type"),
    allow_non_unicode: bool = False,
) -> Iterator[Entry]:
    """The entries of a captions.jsonl, in its order; none of an empty file.

    Args:
        path: the list.
        require: which of ``file`` and ``type`` every line must have.
        allow_non_unicode: whether text that is not Unicode is accepted; undecodable
            bytes then are surrogates, as in paths.

    Raises:
        ValueError: names the file and the first unusable line, and what to write.
    """
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                entry = parse_line(line, number, require, allow_non_unicode)
            except ValueError as error:
                form = ", ".join([*map(_FORM.get, require), '"caption": ...'])
                raise ValueError(
                    f"{path}: line {number} {error}; write {{{form}}}."
                ) from error
            if entry is not None:
                yield entry


def parse_line(
    line: bytes,
    number: int = 0,
    require: Sequence[str] = ("file", "type"),
    allow_non_unicode: bool = False,
) -> Entry | None:
    """The entry of one line; None for a blank line.

    Args:
        line: with or without its end.
        number: of the line, from 1; 0 where it is unknown.
        require, allow_non_unicode: as of `read_entries`.

    Raises:
        ValueError: says what the line has and what was wanted, as in "has file=None,
            wanted a string".
    """
    line = line.strip().removeprefix(codecs.BOM_UTF8)
    if not line.strip():
        return None
    try:
        fields = json.loads(line.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not JSON ({error})") from error
    if not isinstance(fields, dict):
        raise ValueError(f"is {type(fields).__name__}, not a JSON object")
    for key in require:
        if not isinstance(fields.get(key), str):
            raise ValueError(f"has {key}={fields.get(key)!r}, wanted a string")
    captions = captions_from(fields)
    file, kind = fields.get("file", ""), fields.get("type", "video")
    if not isinstance(file, str):
        raise ValueError(f"has file={file!r}, wanted a string")
    if kind not in KINDS:
        raise ValueError(f"has type={kind!r}; use 'video' or 'image'")
    is_unicode = _is_unicode(line, fields)
    if not (is_unicode or allow_non_unicode):
        raise ValueError("holds text that is not UTF-8")
    return Entry(file, kind, captions, fields, number, is_unicode)


def captions_from(fields: Fields) -> tuple[str, ...]:
    """All captions of a file: ``caption`` and those in the list ``captions``, once.

    Raises:
        ValueError: it has neither, or they are not texts.
    """
    listed = fields.get("captions")
    if listed is None:
        listed = []
    elif not isinstance(listed, list) or not all(isinstance(x, str) for x in listed):
        raise ValueError(f"has captions={listed!r}, wanted a list of strings")
    first = fields.get("caption")
    if not isinstance(first, str) and (first is not None or not listed):
        raise ValueError(f"has caption={first!r}, wanted a string")
    return tuple(dict.fromkeys(listed if first is None else [first, *listed]))


def read_lines(path: Path, option: str) -> list[str]:
    """The lines of a text file that are not blank, without their ends.

    The rules on line ends, byte order marks and blank lines are those of this module.

    Args:
        path: UTF-8.
        option: that named the file, for errors, such as ``--captions``.

    Raises:
        ValueError: there is no such file, or it is not UTF-8.
    """
    if not path.is_file():
        raise ValueError(f"{option}={path}: there is no such file.")
    lines = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        try:
            text = line.removeprefix(codecs.BOM_UTF8).removesuffix(b"\r").decode()
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{option}={path}: line {number} is not UTF-8 ({error.reason})."
            ) from error
        if text.strip():
            lines.append(text)
    return lines


def read_prompts(path: Path, option: str = "--prompts") -> list[str]:
    """The prompts of a text file, one a line, without surrounding blanks.

    Args and Raises: as of `read_lines`.
    """
    return [line.strip() for line in read_lines(path, option)]


def _is_unicode(line: bytes, fields: Fields) -> bool:
    """Whether all texts of a line can be encoded."""
    try:
        line.decode()
        if b"\\u" in line:  # an escape may be half of a surrogate pair
            json.dumps(fields, ensure_ascii=False).encode()
    except UnicodeError:
        return False
    return True
