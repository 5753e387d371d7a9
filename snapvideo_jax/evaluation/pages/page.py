"""A page written: its template, filled with what it shows, and the files beside it."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

from snapvideo_jax.io.files import check_empty

_STATIC = resources.files("snapvideo_jax.evaluation.pages") / "static"
_SHARED = ("base.css", "base.js")


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder to write a page into, which takes the name ``out`` once it is whole.

    Raises:
        ValueError: something is there already.
    """
    check_empty(out, "--out")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".page-") as passing:
        folder = Path(passing) / "page"
        folder.mkdir()
        yield folder
        os.replace(folder, out)


def write_page(folder: Path, name: str, data: Any) -> None:
    """Writes ``index.html`` and what it loads.

    Args:
        folder: of the page.
        name: of the template.
        data: what the script of the page reads, as JSON can hold it.
    """
    for file in (*_SHARED, f"{name}.css", f"{name}.js"):
        with resources.as_file(_STATIC / file) as path:
            shutil.copyfile(path, folder / file)
    template = (_STATIC / f"{name}.html").read_text(encoding="utf-8")
    html = template.replace("{{data}}", embedded(data))
    (folder / "index.html").write_text(html, encoding="utf-8")


def embedded(data: Any) -> str:
    """JSON that may lie within a script element, whatever texts it holds.

    A text could end the element or begin a comment; its ``<`` is therefore written as
    an escape, which JSON reads back as the same letter.
    """
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text
