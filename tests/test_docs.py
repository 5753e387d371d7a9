"""What the pages say can be done: commands, links, the site; and the README's lists."""

import ast
import contextlib
import functools
import json
import pathlib
import re
import subprocess
import sys
import unicodedata

import pytest
import yaml
from documented import PAGES, ROOT, assert_each, blocks, commands, where
from test_repo import ORDER

from snapvideo_jax import __main__ as cli
from snapvideo_jax import config as configs
from snapvideo_jax.io import shipped

DOCS = ROOT / "docs"
API = sorted((DOCS / "api").glob("*.md"))
EXAMPLES = ("clips", "mixture", "fit_upsampler")
"""Configs that between them have all fields a page may change."""
OUTSIDE = ("ruff", "pytest", "mkdocs", "source", "docker", "sudo")
"""First words of commands that are not of this project."""


def relative(path):
    return path.relative_to(ROOT).as_posix()


def pages():
    """Every page after its name."""
    return [(relative(page), page) for page in PAGES]


# --- Commands ------------------------------------------------------------------------


def is_known(words):
    first = words[0].removeprefix("./")
    known = ("snapvideo", "pip", "python", "python3", *OUTSIDE)
    return first.startswith("launch/") or first in known


def test_pages_have_commands_that_are_looked_at():
    every = [words for page in PAGES for words in commands(page)]
    assert len(every) > 150
    assert [words for words in every if not is_known(words)] == []


def test_every_command_is_understood():
    found = where(lambda words: words[0] == "snapvideo")
    assert_each(lambda words: assert_understood(words[1:]), found)


def assert_understood(words):
    """That verb, options and fields of the config are there.

    "..." stands for options that the page has told before: what is required may then
    be missing, and only names are looked at.
    """
    own = words[: words.index("--")] if "--" in words else words
    if "..." in own:
        own = [word for word in own if word != "..."]
        wrong = [name for name in options(own) if name not in known_options(own)]
        assert not wrong
        rest = [word for word in own if word.startswith("--config.")]
    else:
        arguments, rest = parser().parse_known_args(own)
        assert not rest or arguments.takes_overrides
    changes_fields(own, rest)


@functools.cache
def parser():
    return cli._parser()


def options(words):
    """Names of the options among words, without those that change a config."""
    names = [word.partition("=")[0] for word in words if word.startswith("--")]
    return [name for name in names if not name.startswith("--config.")]


def known_options(words):
    """Names of all options of a verb."""
    verb = parser()
    for word in words:
        verbs = [action for action in verb._actions if action.choices]
        if not verbs or word not in verbs[0].choices:
            break
        verb = verbs[0].choices[word]
    return verb._option_string_actions


def changes_fields(words, overrides):
    """That overrides are fields of the command's config, or of one that it may have."""
    assert all(word.startswith("--config.") for word in overrides), overrides
    after = dict(zip(words, words[1:], strict=False))
    named = after.get("--config", "")
    if shipped.find(pathlib.Path(named.partition(":")[0])).is_file():
        config = configs.load(named, overrides)
        if "model" in config:
            configs.build(config)
        return
    refused = []
    for name in EXAMPLES if overrides else ():
        try:
            configs.load(name, overrides)
            return
        except ValueError as error:
            refused.append(str(error))
    assert not refused


@pytest.mark.parametrize(
    "command", ["train --stpes 3 ...", "train ... --config.optimizer.stpes=3"]
)
def test_a_wrong_command_would_be_noticed(command):
    with pytest.raises(AssertionError):
        assert_understood(command.split())


def test_every_script_is_there_and_has_the_options():
    assert_each(assert_script, where(lambda words: "launch/" in words[0]))


def assert_script(words):
    """That a script has the options. Those of pods are run dry in test_launch.py."""
    script = ROOT / words[0]
    own, after = words[1:], []
    if "--" in own:
        at = own.index("--")
        own, after = own[:at], own[at + 1 :]
    text = script.read_text()
    if script.name == "test.sh":
        assert all((ROOT / word).is_file() for word in own if word.endswith(".py"))
    elif script.name != "train_pod.sh":
        assert not [name for name in options(own) if name[2:] not in text]
    if after and not after[0].startswith("-"):
        assert_understood(after)


def test_every_program_is_there_and_has_the_options():
    assert_each(assert_program, where(lambda words: words[0].startswith("python")))


def assert_program(words):
    if words[1] == "-m":
        assert words[2] == "venv"
        return
    path = ROOT / words[1]
    if path.name == "run.py":  # of a bundle, which is a copy of this
        path = ROOT / "snapvideo_jax" / "export" / "standalone.py"
    text = path.read_text()
    assert not [name for name in options(words) if f'"{name}"' not in text]


def test_extras_that_are_installed_are_there():
    known = (ROOT / "setup.py").read_text()

    def check(words):
        extras = re.findall(r"^\.\[(\w+)\]", " ".join(words[-1:]))
        assert all(f'"{extra}": ' in known for extra in extras)

    assert_each(check, where(lambda words: words[0] == "pip"))


def test_other_blocks_are_of_their_language():
    assert_each(assert_parses, pages())


def assert_parses(page):
    for text in blocks(page, "python"):
        ast.parse(text)
    for text in blocks(page, "json"):
        assert all(json.loads(line) for line in text.splitlines())


# --- Links ---------------------------------------------------------------------------


def prose(page):
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.M | re.S)


def anchors(page):
    """What a link to a page may name: its headings, and what its API is made of."""
    text = prose(page)
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        plain = re.sub(r"[`*]|\]\(.*?\)|\[", "", heading)
        plain = unicodedata.normalize("NFKD", plain).encode("ascii", "ignore").decode()
        yield re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower())
    for module in re.findall(r"^::: ([\w.]+)$", text, re.MULTILINE):
        yield module
        yield from (f"{module}.{name}" for name in definitions(source_of(module)))


def source_of(module):
    """The file of a module or package."""
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def definitions(path):
    """Names of what a file defines, with methods as CLASS.NAME."""
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield node.name
        for inner in getattr(node, "body", ()):
            if isinstance(node, ast.ClassDef) and isinstance(inner, ast.FunctionDef):
                yield f"{node.name}.{inner.name}"
        for target in getattr(node, "targets", ()):
            with contextlib.suppress(AttributeError):
                yield target.id


def test_links_lead_somewhere():
    assert_each(assert_links, pages())


def assert_links(page):
    wrong = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"https?://", link):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            wrong.append(link)
    assert not wrong


# --- The site ------------------------------------------------------------------------


def test_the_site_has_every_page_once():
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text())

    def files(entries):
        for entry in entries:
            below = list(entry.values())[0] if isinstance(entry, dict) else entry
            yield from files(below) if isinstance(below, list) else [below]

    pages = [path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")]
    assert sorted(files(config["nav"])) == sorted(pages)


def test_the_api_has_every_module_once():
    """Without the command line, whose options `--help` shows."""
    listed = [
        module
        for page in API
        for module in re.findall(r"^::: ([\w.]+)$", page.read_text(), re.MULTILINE)
    ]
    assert len(listed) == len(set(listed))
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path
        for path in (ROOT / "snapvideo_jax").rglob("*.py")
        if not path.name.startswith("__") and "cli" not in path.parts
    }
    public = {
        name
        for name, path in modules.items()
        if {part for part in definitions(path) if part[0] != "_"} - {"run", "logger"}
    }
    assert public <= set(listed)
    assert all(source_of(module).is_file() for module in listed)


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs", reason="needs pip install -e '.[docs]'")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir"]
    built = subprocess.run([*build, tmp_path], cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0 and "WARNING -" not in built.stderr, built.stderr
    method = (tmp_path / "method.html").read_text()
    assert "<math" in method and "arithmatex" not in method
    edm = (tmp_path / "api" / "diffusion.html").read_text()
    assert "b *s" in edm and "The loss of each sample" in edm
    for page in tmp_path.rglob("*.html"):
        fetched = r"<(?:script|img|link rel=.stylesheet.)[^>]*(?:src|href)=.?https?:"
        assert not re.search(fetched, page.read_text()), f"{page.name} needs a network"


# --- The README ----------------------------------------------------------------------


README = (ROOT / "README.md").read_text("utf-8")


def test_the_readme_has_at_most_150_lines():
    assert len(README.splitlines()) <= 150


def test_the_readme_has_every_room_in_the_order_of_imports():
    rows = re.findall(r"^\| ((?:`[a-z_]+(?:/|\.py)`(?:, )?)+) \|", README, re.MULTILINE)
    rooms = [name for row in rows for name in re.findall(r"`([a-z_]+)", row)]
    assert rooms[1:] == [name for name in ORDER if name != "__main__"]


def test_the_plans_of_the_readme_are_those_of_the_docs():
    plans = (DOCS / "plans.md").read_text()
    rows = re.findall(r"^\| `((?:fit|sample)-[\w-]+)` \|(.*)\|$", README, re.MULTILINE)
    assert len(rows) >= 4
    for name, cells in rows:
        kept = {
            cell.strip()
            for line in re.findall(rf"^\| {name} \|(.*)\|$", plans, re.MULTILINE)
            for cell in line.split("|")
        }
        assert {cell.strip() for cell in cells.split("|")} <= kept, name


def test_parameters_of_the_page_of_configs_are_those_of_the_configs():
    page = (DOCS / "configs.md").read_text("utf-8")
    rows = re.findall(r"^\| `configs/([\w.:=]+)`.*\| ([\d,]+) \|$", page, re.M)
    assert {"demo.py", "clips.py", "fit.py:size=500m"} <= {name for name, _ in rows}
    assert {name.partition(".")[0] for name, _ in rows} == set(shipped.names()) - {
        "prepare"
    }
