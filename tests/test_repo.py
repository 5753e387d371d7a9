"""Rules of the repository: sizes, import directions, spellings, and the tests."""

import ast
import pathlib
import re
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parent.parent
MODULES = sorted((ROOT / "snapvideo_jax").rglob("*.py"))
TESTS = sorted((ROOT / "tests").glob("test_*.py"))
JOINERS = [f"snapvideo_jax.{name}" for name in ("step", "train", "sample")]

FORBIDDEN = {
    "diffusion": ["flax", "snapvideo_jax.models", "snapvideo_jax.data", *JOINERS],
    "models": ["snapvideo_jax.diffusion", "snapvideo_jax.data", *JOINERS],
    "data": [
        "jax",
        "flax",
        "snapvideo_jax.models",
        "snapvideo_jax.diffusion",
        *JOINERS,
    ],
}


def relative(path):
    return path.relative_to(ROOT).as_posix()


def parse(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def imported_names(tree, package):
    """Full names of all that a module of ``package`` imports, wherever it does."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) + 1 - node.level]
            base = parents if node.level else []
            stem = ".".join([*base, *filter(None, [node.module])])
            yield from (f"{stem}.{alias.name}" for alias in node.names)


def is_inside(name, package):
    return name == package or name.startswith(package + ".")


def repository_files():
    """Files that are tracked or would be, in a checkout or outside of one."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name]


def is_check(node):
    """Whether a syntax node can fail a test."""
    if isinstance(node, ast.Assert):
        return True
    if not isinstance(node, ast.Call):
        return False
    name = getattr(node.func, "attr", getattr(node.func, "id", ""))
    return name == "raises" or name.startswith(("assert_", "check_"))


@pytest.mark.parametrize("path", MODULES + TESTS, ids=relative)
def test_no_module_is_longer_than_450_lines(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= 450, f"{relative(path)} has {lines} lines; split it"


@pytest.mark.parametrize("part", FORBIDDEN)
def test_imports_point_one_way(part):
    wrong = [
        f"{relative(path)} imports {name}"
        for path in sorted((ROOT / "snapvideo_jax" / part).rglob("*.py"))
        for name in imported_names(parse(path), f"snapvideo_jax.{part}")
        if any(is_inside(name, package) for package in FORBIDDEN[part])
    ]
    assert not wrong


@pytest.mark.parametrize(
    "code, name",
    [
        ("import jax.numpy as jnp", "jax.numpy"),
        ("from jax import numpy", "jax.numpy"),
        ("from snapvideo_jax import models", "snapvideo_jax.models"),
        ("from . import judge", "snapvideo_jax.data.judge"),
        ("from .judge import judge", "snapvideo_jax.data.judge.judge"),
        ("from .. import models", "snapvideo_jax.models"),
        ("from ..models import fit", "snapvideo_jax.models.fit"),
        ("def f():\n  import flax", "flax"),
    ],
)
def test_the_import_rule_sees_every_kind_of_import(code, name):
    assert list(imported_names(ast.parse(code), "snapvideo_jax.data")) == [name]


def test_jaxtyping_is_not_mistaken_for_jax():
    assert not is_inside("jaxtyping.Float", "jax")
    assert is_inside("jax.numpy", "jax") and is_inside("jax", "jax")


def test_models_change_shapes_by_named_axes_only():
    wrong = [
        f"{relative(path)}:{node.lineno} .{node.attr}"
        for path in sorted((ROOT / "snapvideo_jax" / "models").rglob("*.py"))
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Attribute)
        and node.attr in ("reshape", "transpose", "swapaxes")
    ]
    assert not wrong, "use einops.rearrange"


def test_no_file_holds_the_path_of_a_machine():
    machine_path = re.compile(r"(?<![\w.~])/(?:work|root|home)/")
    wrong = [
        relative(path)
        for path in repository_files()
        if path.is_file()
        and machine_path.search(path.read_bytes().decode("utf-8", "replace"))
    ]
    assert not wrong


@pytest.mark.parametrize("path", TESTS, ids=relative)
def test_every_test_can_fail(path):
    wrong = [
        node.name
        for node in ast.walk(parse(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not any(map(is_check, ast.walk(node)))
    ]
    assert not wrong
