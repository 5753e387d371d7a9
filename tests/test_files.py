"""Atomic writes, error messages, and comparison of settings."""

import json
import signal
import subprocess
import sys

import pytest

from snapvideo_jax.io import saved_settings
from snapvideo_jax.io.errors import first_line
from snapvideo_jax.io.files import (
    check_empty,
    remove_temporary_files,
    write_atomically,
    write_json,
)
from snapvideo_jax.io.messages import did_you_mean, human_bytes


def test_a_file_is_replaced_atomically(tmp_path):
    path = tmp_path / "new" / "summary.json"
    write_atomically(path, b"first")
    write_atomically(path, b"second")
    assert path.read_bytes() == b"second"
    assert [each.name for each in path.parent.iterdir()] == ["summary.json"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "summary.json"
    write_atomically(path, b"first")
    with pytest.raises(TypeError):
        write_atomically(path, "not bytes")
    assert path.read_bytes() == b"first"
    assert [each.name for each in tmp_path.iterdir()] == ["summary.json"]


def test_a_value_that_json_cannot_hold_leaves_the_old_file(tmp_path):
    path = tmp_path / "summary.json"
    write_json(path, {"loss": [0.5, None]})
    with pytest.raises(TypeError):
        write_json(path, {"loss": object()})
    assert json.loads(path.read_text()) == {"loss": [0.5, None]}


@pytest.mark.parametrize(
    "error, line",
    [
        (ValueError("\n no such file \n at all"), "no such file "),
        (NotImplementedError(), "NotImplementedError()"),
    ],
)
def test_an_error_is_one_line_even_without_a_message(error, line):
    assert first_line(error) == line


def test_only_temporary_files_of_killed_processes_are_removed(tmp_path):
    program = f"""
import os, signal
from snapvideo_jax.io import files
files.os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
files.write_atomically({str(tmp_path / "summary.json")!r}, b"half")
"""
    ended = subprocess.run([sys.executable, "-c", program]).returncode
    assert ended == -signal.SIGKILL
    (tmp_path / "config.json").write_bytes(b"{}")
    (tmp_path / ".hidden").write_bytes(b"")
    assert len(list(tmp_path.iterdir())) == 3
    remove_temporary_files(tmp_path)
    assert {each.name for each in tmp_path.iterdir()} == {"config.json", ".hidden"}


def test_only_new_and_empty_folders_are_empty(tmp_path):
    check_empty(tmp_path / "new", "--out")
    check_empty(tmp_path, "--out")
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file"):
        with pytest.raises(ValueError, match=f"--out={path} is not an empty folder"):
            check_empty(path, "--out")


def test_an_unknown_name_is_answered_with_a_close_one_or_with_all():
    assert did_you_mean("hune", ("heun", "euler")) == "did you mean 'heun'?"
    assert did_you_mean("x", ("heun", "euler")) == "use one of heun, euler."
    assert did_you_mean("x", ("heun",), "see --help.") == "see --help."


@pytest.mark.parametrize(
    "size, text",
    [
        (128, "0.000128 MB"),
        (12_345_678, "12.3 MB"),
        (999.9e6, "1 GB"),
        (-1.5e9, "-1.5 GB"),
        (1_234e9, "1.23 TB"),
    ],
)
def test_bytes_have_the_unit_of_their_size(size, text):
    assert human_bytes(size) == text


def test_a_run_resumes_with_the_settings_that_it_was_begun_with(tmp_path):
    path = tmp_path / "settings.json"
    settings = {"seed": 1, "size": (2, 3), "data": {"root": "a", "fps": 8}}
    saved_settings.begin(path, settings, "--out=o", is_writer=False)
    assert not path.exists()
    saved_settings.begin(path, settings, "--out=o")
    saved_settings.begin(path, settings, "--out=o")
    changed = settings | {"seed": 2, "data": {"root": "b"}}
    with pytest.raises(ValueError) as error:
        saved_settings.begin(path, changed, "--out=o", lambda name: name == "data.root")
    assert str(error.value) == (
        "--out=o was begun with other settings: data.fps=None (was 8), seed=2 (was 1); "
        "use another folder, or those settings."
    )
