"""Files that appear whole or not at all."""

import json
import signal
import subprocess
import sys

import pytest

from snapvideo_jax.io.errors import first_line
from snapvideo_jax.io.files import remove_temporary_files, write_atomically, write_json


def test_a_file_is_replaced_whole(tmp_path):
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


def test_what_is_no_json_leaves_the_old_file(tmp_path):
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
def test_an_error_is_told_in_one_line_even_where_it_says_nothing(error, line):
    assert first_line(error) == line


def test_what_a_killed_process_left_is_forgotten_and_nothing_else(tmp_path):
    program = f"""
import os, signal
from snapvideo_jax import files
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
