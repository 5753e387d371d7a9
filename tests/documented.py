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


def where(kind):
    """The commands of a kind on all pages, each after the page that it stands on."""
    return [
        (f"{page.relative_to(ROOT).as_posix()}: {shlex.join(words)}", words)
        for page in PAGES
        for words in commands(page)
        if kind(words)
    ]


def assert_each(check, items):
    """Asserts that a check passes for every item of (name, item) pairs.

    The message has the name of every item that it fails for, and why.
    """
    assert items, "there is nothing to check"
    failures = []
    for name, item in items:
        try:
            check(item)
        except (Exception, SystemExit) as error:
            failures.append(f"{name}\n    {type(error).__name__}: {error}")
    assert not failures, "\n".join(failures)
