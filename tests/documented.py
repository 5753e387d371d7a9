"""The pages of the documentation, and the commands on them."""

import pathlib
import re
import shlex

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]


def blocks(page, language):
    """The fenced blocks of a language on a page."""
    return re.findall(rf"```{language}\n(.*?)```", page.read_text("utf-8"), re.DOTALL)


def commands(page):
    """The words of each command on a page, continued lines joined, comments left out.

    Variables that are set before a command are left out too.
    """
    lines = "\n".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()
    for line in lines:
        words = shlex.split(line, comments=True)
        while words and re.match(r"[A-Z_]+=", words[0]):
            words.pop(0)
        if words:
            yield words
