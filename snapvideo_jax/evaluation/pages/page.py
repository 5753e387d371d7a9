"""Writes a page: its template with embedded data, scripts and styles."""

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
    """A temporary folder for a page, renamed to ``out`` when it is complete.

    Raises:
        ValueError: ``out`` is not empty.
    """
    check_empty(out, "--out")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".page-") as temporary:
        folder = Path(temporary) / "page"
        folder.mkdir()
        yield folder
        os.replace(folder, out)


def write_page(folder: Path, name: str, data: Any) -> None:
    """Writes ``index.html`` and the files that it loads.

    Args:
        folder: of the page.
        name: of the template.
        data: for the script of the page; must be serializable as JSON.
    """
    for file in (*_SHARED, f"{name}.css", f"{name}.js"):
        with resources.as_file(_STATIC / file) as path:
            shutil.copyfile(path, folder / file)
    template = (_STATIC / f"{name}.html").read_text(encoding="utf-8")
    html = template.replace("{{data}}", embedded(data))
    (folder / "index.html").write_text(html, encoding="utf-8")


def embedded(data: Any) -> str:
    """JSON that is safe within a script element, whatever strings it has.

    A string could end the element or begin a comment, so ``<``, ``>`` and ``&`` are
    written as JSON escapes.
    """
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
