"""Rules of the repository: sizes, import directions, spellings, and the tests."""

import ast
import pathlib
import re
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parent.parent
MODULES = sorted((ROOT / "snapvideo_jax").rglob("*.py"))
TESTS = sorted((ROOT / "tests").glob("test_*.py"))
ORDER = (
    *("types", "io", "parallel", "diffusion", "models", "text", "data"),
    *("optim", "state", "step", "config", "training", "sampling", "train"),
    *("evaluation", "planning", "scaling", "export", "cli", "__main__"),
)
"""Rooms of the package; one imports only from those before it."""
LIBRARIES = {"diffusion": ["flax"], "data": ["jax", "flax"]}
"""Libraries that a room does without."""
INDEPENDENT = {
    "diffusion": ["models", "data"],
    "models": ["diffusion", "data"],
    "data": ["models", "diffusion"],
}
"""Rooms that know nothing of some of those before them either."""


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


def test_no_module_is_longer_than_450_lines():
    lengths = {
        relative(path): len(path.read_text(encoding="utf-8").splitlines())
        for path in MODULES + TESTS
    }
    too_long = {name: lines for name, lines in lengths.items() if lines > 450}
    assert not too_long, "split these"


def imported_modules():
    """Every module of the package, and the modules of it that it imports."""
    names = {
        relative(path)[: -len(".py")].replace("/", ".").removesuffix(".__init__"): path
        for path in MODULES
    }
    found = {}
    for module, path in names.items():
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        imports = {
            name if name in names else name.rpartition(".")[0]
            for name in imported_names(parse(path), package)
        }
        found[module] = imports & names.keys() - {module, "snapvideo_jax"}
    return found


def room(module):
    return module.split(".")[1]


def test_rooms_import_only_from_rooms_before_them():
    wrong = [
        f"{module} imports {name}"
        for module, imports in imported_modules().items()
        for name in imports
        if ORDER.index(room(name)) > ORDER.index(room(module))
        or room(name) in INDEPENDENT.get(room(module), ())
    ]
    assert not wrong


def test_no_modules_import_each_other():
    rest = imported_modules()
    while free := [m for m, imports in rest.items() if not imports & rest.keys()]:
        rest = {m: imports for m, imports in rest.items() if m not in free}
    assert not rest, f"these stand in circles of imports, or import one: {sorted(rest)}"


def test_the_package_root_holds_rooms_and_few_modules():
    root = ROOT / "snapvideo_jax"
    modules = {path.stem for path in root.glob("*.py")} - {"__init__"}
    folders = {path.parent.name for path in root.glob("*/__init__.py")}
    assert modules | folders == set(ORDER) and len(modules) <= 6


@pytest.mark.parametrize("part", LIBRARIES)
def test_a_room_does_without_a_library(part):
    wrong = [
        f"{relative(path)} imports {name}"
        for path in sorted((ROOT / "snapvideo_jax" / part).rglob("*.py"))
        for name in imported_names(parse(path), f"snapvideo_jax.{part}")
        if any(is_inside(name, library) for library in LIBRARIES[part])
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


def test_every_test_can_fail():
    tests = {
        f"{relative(path)}::{node.name}": node
        for path in TESTS
        for node in ast.walk(parse(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
    }
    assert len(tests) > 1000
    wrong = [
        name for name, node in tests.items() if not any(map(is_check, ast.walk(node)))
    ]
    assert not wrong
