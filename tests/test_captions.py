"""One reader of captions.jsonl and one of files of prompts: what each accepts."""

import json

import pytest

from snapvideo_jax.io.captions import (
    captions_from,
    parse_line,
    read_entries,
    read_lines,
    read_prompts,
)

CAT = b'{"file": "a.mp4", "type": "video", "caption": "a cat"}'
LATIN_1 = '{"file": "b.mp4", "type": "video", "caption": "caf\xe9"}'.encode("latin-1")


@pytest.fixture
def listed(tmp_path):
    """Writes bytes to a list, and reads it."""

    def read(content, **options):
        (tmp_path / "captions.jsonl").write_bytes(content)
        return list(read_entries(tmp_path / "captions.jsonl", **options))

    return read


def test_an_entry_has_its_file_type_captions_fields_and_line(listed):
    line = {"file": "a.png", "type": "image", "caption": "x", "captions": ["y", "x"]}
    (entry,) = listed(b"\n" + json.dumps(line | {"aesthetic": 5}).encode())
    assert (entry.file, entry.type, entry.line) == ("a.png", "image", 2)
    assert (entry.caption, entry.captions) == ("x", ("x", "y"))
    assert entry.fields == line | {"aesthetic": 5} and entry.is_unicode


@pytest.mark.parametrize(
    "content",
    [
        CAT,
        CAT + b"\n\n \n\t\r\n",
        b"\r\n" + CAT + b"\r\n",
        b"\xef\xbb\xbf" + CAT + b"\n",
        b"\xef\xbb\xbf\n\xef\xbb\xbf" + CAT,
    ],
    ids=["no end", "blank last lines", "CR LF", "BOM", "BOM in the middle"],
)
def test_ends_of_lines_blank_lines_and_byte_order_marks(listed, content):
    (entry,) = listed(content)
    assert (entry.file, entry.captions) == ("a.mp4", ("a cat",))


@pytest.mark.parametrize("separator", list("\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e"))
def test_only_a_line_feed_ends_a_line(listed, tmp_path, separator):
    caption = f"a cat{separator}that sleeps"
    line = {"file": "a", "type": "video", "caption": caption}
    (entry,) = listed(json.dumps(line, ensure_ascii=False).encode())
    assert entry.caption == caption
    (tmp_path / "prompts.txt").write_text(caption + "\n", encoding="utf-8")
    assert read_prompts(tmp_path / "prompts.txt") == [caption]


def test_captions_may_stand_in_place_of_a_caption(listed):
    line = b'{"file": "a", "type": "video", "captions": ["one", "two", "one"]}'
    (entry,) = listed(line)
    assert (entry.caption, entry.captions) == ("one", ("one", "two"))
    assert captions_from({"caption": "", "captions": []}) == ("",)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"3", "is int, not a JSON object"),
        (b'{"type": "video", "caption": "x"}', "has file=None, wanted a string"),
        (b'{"file": "a", "caption": "x"}', "has type=None, wanted a string"),
        (b'{"file": "a", "type": "sound", "caption": "x"}', "has type='sound'; use"),
        (b'{"file": "a", "type": "video"}', "has caption=None, wanted a string"),
        (
            b'{"file": "a", "type": "video", "captions": "x"}',
            "has captions='x', wanted a list of strings",
        ),
        (LATIN_1, "holds text that is not UTF-8"),
        (
            rb'{"file": "a", "type": "video", "caption": "\ud83d"}',
            "holds text that is not UTF-8",
        ),
    ],
)
def test_the_first_unusable_line_is_an_error_that_names_file_and_line(
    listed, line, reason
):
    with pytest.raises(ValueError) as caught:
        listed(CAT + b"\n\n" + line + b"\n" + CAT)
    assert f"captions.jsonl: line 3 {reason}" in str(caught.value)
    assert str(caught.value).endswith('"image", "caption": ...}.')
    with pytest.raises(ValueError, match=reason.partition("(")[0]):
        parse_line(line)


def test_text_that_is_not_unicode_is_accepted_where_asked_for(listed):
    first, second = listed(CAT + b"\n" + LATIN_1, allow_non_unicode=True)
    assert first.is_unicode and not second.is_unicode
    assert second.caption.encode("utf-8", "surrogateescape") == b"caf\xe9"
    pair = rb'{"file": "a", "type": "video", "caption": "\ud83d\ude00"}'
    assert parse_line(pair).caption == "\U0001f600"


def test_a_list_of_captions_alone_needs_no_file_and_no_type(listed):
    (entry,) = listed(b'{"caption": "x"}', require=())
    assert (entry.file, entry.type, entry.caption) == ("", "video", "x")
    (entry,) = listed(b'{"file": "a", "caption": "x"}', require=("file",))
    assert (entry.file, entry.type) == ("a", "video")
    with pytest.raises(ValueError, match='write {"caption": ...}'):
        listed(b'{"file": "a"}', require=())
    with pytest.raises(ValueError, match="has file=3, wanted a string"):
        listed(b'{"file": 3, "caption": "x"}', require=())


def test_prompts_are_the_lines_that_are_not_blank(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_bytes(b"\xef\xbb\xbfa red cross \r\n\r\n \t\na blue\x0bsquare")
    assert read_prompts(path) == ["a red cross", "a blue\x0bsquare"]
    assert read_lines(path, "--captions") == ["a red cross ", "a blue\x0bsquare"]


def test_files_of_prompts_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"--prompts=.*none: there is no such file\."):
        read_prompts(tmp_path / "none")
    path = tmp_path / "latin.txt"
    path.write_bytes(b"a cat\ncaf\xe9\n")
    with pytest.raises(ValueError, match=r"--captions=.*: line 2 is not UTF-8 \("):
        read_lines(path, "--captions")
