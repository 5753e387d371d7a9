"""What `pip install` of a wheel gives: the verbs, and the configs by their names."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile

import pytest

import snapvideo_jax
from snapvideo_jax import config as configs
from snapvideo_jax.io import shipped

ROOT = pathlib.Path(__file__).parent.parent
BUILT_FROM = (
    "snapvideo_jax",
    "configs",
    "docs/plans",
    "setup.py",
    "pyproject.toml",
    "MANIFEST.in",
)
WHEEL = "SNAPVIDEO_TESTS_WHEEL"
"""The variable with which launch/test.sh names the wheel that it tests."""
HEAVY = ("jax", "flax", "orbax", "numpy", "tensorflow_datasets", "grain", "av")
"""Packages that take seconds to import, or much of one."""


def pip(*arguments, cwd):
    subprocess.run(
        [sys.executable, "-m", "pip", *map(str, arguments), "--no-deps", "-q"],
        check=True,
        cwd=cwd,
        env=os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INDEX": "1"},
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of a copy of this checkout, without what earlier builds left."""
    if WHEEL in os.environ:
        return pathlib.Path(os.environ[WHEEL])
    folder = tmp_path_factory.mktemp("wheel")
    for name in (*BUILT_FROM, "README.md", "LICENSE"):
        path = ROOT / name
        if path.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(path, folder / "source" / name, ignore=ignored)
        else:
            shutil.copy(path, folder / "source" / name)
    source, built = folder / "source", folder / "built"
    pip("wheel", source, "--no-build-isolation", "-w", built, cwd=folder)
    (path,) = built.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Runs a command with the wheel installed in a folder, far from the checkout."""
    folder = tmp_path_factory.mktemp("installed")
    pip("install", wheel, "--target", folder / "site", cwd=folder)
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()

    def call(*arguments, code=0):
        ran = subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=elsewhere,
            env=os.environ | {"PYTHONPATH": str(folder / "site")},
            capture_output=True,
            text=True,
        )
        assert ran.returncode == code, ran.stderr
        return ran.stdout + ran.stderr

    assert call("-c", "import snapvideo_jax as s; print(s.__file__)").startswith(
        str(folder / "site")
    )
    return call


@pytest.mark.skipif(WHEEL not in os.environ, reason="launch/test.sh tests a wheel")
@pytest.mark.parametrize("folder", [pathlib.Path(), ROOT, ROOT / "tests"])
def test_what_is_tested_is_a_wheel_wherever_a_command_starts(folder):
    package = pathlib.Path(snapvideo_jax.__file__)
    assert not package.is_relative_to(ROOT), "the checkout is tested"
    assert "site-packages" in package.parts
    code = "import snapvideo_jax as s; print(s.__file__)"
    found = subprocess.check_output([sys.executable, "-c", code], cwd=folder, text=True)
    assert found.strip() == str(package)


@pytest.mark.slow
def test_the_wheel_has_the_configs_and_the_pages(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    ours = {f"snapvideo_jax/configs/{name}.py" for name in shipped.names()}
    assert "snapvideo_jax/configs/demo.py" in ours <= set(names)
    assert any(
        name.startswith("snapvideo_jax/evaluation/pages/static/") for name in names
    )
    assert "snapvideo_jax/planning/golden/demo-v5e-2x2.json" in names
    assert not [name for name in names if name.startswith(("tests", "configs", "docs"))]


@pytest.mark.slow
def test_an_installed_demo_is_found_by_its_name(installed):
    out = installed("-m", "snapvideo_jax", "train", "--config", "demo", "--dry-run")
    assert "parameters        2,129,328" in out


@pytest.mark.slow
def test_an_installed_command_helps_and_tells_its_version(installed):
    out = installed("-m", "snapvideo_jax", "--help")
    assert "\n    export " in out and "\n    import " in out
    out = installed("-m", "snapvideo_jax", "--version")
    assert out.strip() == f"snapvideo_jax {snapvideo_jax.__version__}"


@pytest.mark.slow
def test_help_imports_nothing_heavy(installed):
    code = (
        "import sys; sys.argv = ['snapvideo', '--help']\n"
        "from snapvideo_jax import __main__ as cli\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        f"print('HEAVY', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    assert installed("-c", code).strip().endswith("HEAVY []")


@pytest.mark.parametrize("name", ["demo:quick=True", "demo.py", "configs/demo.py"])
def test_configs_of_a_checkout_have_names_too(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where there is no folder of configs
    assert configs.load(name, []).model.name == "fit"


def test_a_file_goes_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "def get_config(arg):\n    return {'mine': arg}\n"
    (tmp_path / "demo.py").write_text(text)
    with pytest.raises((ValueError, TypeError, AttributeError)):
        configs.build(configs.load("demo.py:1", []))
    assert shipped.find(pathlib.Path("demo.py")) == pathlib.Path("demo.py")


@pytest.mark.parametrize("name", ["dmo", "other/demo.py", "configs/none.py"])
def test_a_config_that_is_nowhere_is_refused_with_the_names(name):
    with pytest.raises(ValueError, match=f"--config={name}: .* it has clips, demo, "):
        configs.load(name, [])


def test_the_citation_is_of_this_version():
    text = (ROOT / "CITATION.cff").read_text()
    version = re.search(r"^version: (.+)$", text, re.MULTILINE)[1]
    assert version == snapvideo_jax.__version__
    assert "2402.14797" in text
