"""Several processes give the results of one, and stop together when one fails.

The processes are real: two with four devices each, or one with eight.
"""

import json
import shutil
import socket
import threading

import jax
import numpy as np
import pytest
from helpers import TINY_CONFIG, clips_folder, kept_steps, read_metrics, restore
from PIL import Image
from processes import PATIENCE_SECONDS, end, free_port, start, together

from snapvideo_jax.parallel import coordinator
from snapvideo_jax.parallel import processes as distributed
from snapvideo_jax.parallel.process_settings import (
    SINGLE_PROCESS,
    ProcessOptions,
    ProcessSettings,
    settings,
)
from snapvideo_jax.parallel.processes import initialize

STEPS, BATCH = 6, 8
SHEETS = (f"--config.sheets.every_steps={STEPS}",)
BAD = {"empty.mp4": b"", "text.mp4": b"not a film", "text.png": b"not a picture"}


def train(root, workdir, *overrides):
    """A short run whose parameters are divided over all devices."""
    return [
        *("train", "--config", f"{TINY_CONFIG}:steps={STEPS}"),
        *("--workdir", str(workdir), f"--config.data.root={root}"),
        *("--config.data.source=folder", "--config.mesh.fsdp=8", *overrides),
    ]


class Run:
    """A finished run: its workdir, what its processes recorded and printed."""

    def __init__(self, root, name, processes, *overrides, programs=None):
        more = {"JAX_COMPILATION_CACHE_DIR": str(programs)} if programs else {}
        self.workdir = root.parent / name
        arguments = train(root, self.workdir, *overrides)
        records = [root.parent / f"{name}-{index}" for index in range(processes)]
        if processes == 1:
            self.ends = end([start(arguments, 8, records[0], **more)])
        else:
            self.ends = together(arguments, records, (more, more))
        self.programs = programs or self.workdir / "compile_cache"
        for code, _, errors in self.ends:
            assert code == 0, errors[-3000:]
        self.records = [json.loads(path.read_text()) for path in records]

    def samples(self):
        """The sample numbers of each step, in the order of the processes."""
        steps = zip(*(record["samples"] for record in self.records), strict=True)
        return [sum(step, []) for step in steps]

    def part(self, name, until):
        """Makes a workdir as this one was at an earlier step."""
        workdir = self.workdir.parent / name
        left = shutil.ignore_patterns(*map(str, range(until + 1, STEPS + 1)))
        shutil.copytree(
            self.workdir / "checkpoints", workdir / "checkpoints", ignore=left
        )
        for kept in ("config.json", "metrics.jsonl", "skipped.jsonl"):
            shutil.copy(self.workdir / kept, workdir)
        shutil.copytree(self.workdir / "logs", workdir / "logs")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder of clips, some of which cannot be used."""
    return clips_folder(tmp_path_factory.mktemp("hosts") / "clips", BAD)


@pytest.fixture(scope="module")
def one(root):
    """A run of one process, uninterrupted."""
    return Run(root, "one", 1, *SHEETS)


@pytest.fixture(scope="module")
def two(root):
    """A run of two processes, uninterrupted."""
    return Run(root, "two", 2, *SHEETS)


@pytest.fixture(scope="module")
def two_then_one(root, one, two):
    """Begun by two processes, ended by one."""
    two.part("two_then_one", until=4)
    return Run(root, "two_then_one", 1, programs=one.programs)


@pytest.fixture(scope="module")
def one_then_two(root, one, two):
    """Begun by one process, ended by two."""
    one.part("one_then_two", until=4)
    return Run(root, "one_then_two", 2, programs=two.programs)


# --- Two processes do what one does --------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["two", "two_then_one", "one_then_two"])
def test_losses_do_not_depend_on_the_processes(one, name, request):
    ours = read_metrics(request.getfixturevalue(name).workdir)
    theirs = read_metrics(one.workdir)
    assert [line["step"] for line in ours] == list(range(1, STEPS + 1))
    for line, other in zip(ours, theirs, strict=True):
        for key in ("loss", "grad_norm"):
            assert line[key] == pytest.approx(other[key], rel=1e-5), line["step"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["two", "two_then_one", "one_then_two"])
def test_parameters_do_not_depend_on_the_processes(one, name, request):
    run = request.getfixturevalue(name)
    assert kept_steps(run.workdir) == [2, 4, 6]
    ours, theirs = restore(run.workdir), restore(one.workdir)
    assert set(ours) == set(theirs) and ours[".step"] == STEPS
    for key, value in theirs.items():
        if key.startswith((".params", ".ema")):
            np.testing.assert_allclose(ours[key], value, rtol=0, atol=1e-5, err_msg=key)


@pytest.mark.slow
def test_all_processes_together_load_the_batches_of_one(one, two):
    whole = np.arange(STEPS * BATCH).reshape(STEPS, BATCH).tolist()
    assert one.samples() == two.samples() == whole
    assert {len(step) for record in two.records for step in record["samples"]} == {4}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["two_then_one", "one_then_two"])
def test_another_number_of_processes_resumes_with_the_next_batch(one, name, request):
    assert request.getfixturevalue(name).samples() == one.samples()[4:]


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["raw", "ema"])
def test_sheets_show_the_clips_of_all_processes(one, two, weights):
    """Up to a step of 256, as sums may be taken in another order."""
    name = f"{STEPS:07d}-{weights}.png"
    ours, theirs = (
        np.asarray(Image.open(run.workdir / "sheets" / name)).astype(int)
        for run in (two, one)
    )
    assert np.ptp(theirs) > 30 and np.abs(ours - theirs).max() <= 1
    names = {path.name for path in (two.workdir / "sheets").iterdir()}
    assert names == {path.name for path in (one.workdir / "sheets").iterdir()}


# --- What is written, once -----------------------------------------------------------


@pytest.mark.slow
def test_only_process_0_logs_to_the_terminal(two):
    (_, out, errors), (_, other_out, other_errors) = two.ends
    assert f"step {STEPS}: loss" in errors
    # Both standard outputs hold only the lines of the library, torn where threads met.
    for silent in (out, other_out, other_errors):
        assert "loss" not in silent and "Skipping" not in silent
        assert "snapvideo" not in silent


@pytest.mark.slow
def test_every_process_has_a_log(one, two):
    logs = {path.name for path in (two.workdir / "logs").glob("*.log")}
    assert logs == {"process_0000.log", "process_0001.log"}
    for name in logs:
        log = (two.workdir / "logs" / name).read_text()
        assert log.count(f"step {STEPS}: loss") == 1, log
    logs = {path.name for path in (one.workdir / "logs").iterdir()}
    assert logs == {"process_0000.log"}


@pytest.mark.slow
def test_files_that_any_process_skips_are_listed_once(one, two, two_then_one):
    for run in (one, two, two_then_one):
        lines = (run.workdir / "skipped.jsonl").read_text().splitlines()
        assert sorted(json.loads(line)["file"] for line in lines) == sorted(BAD)
    others = two.workdir / "logs" / "skipped_0001.jsonl"
    assert others.read_text(), "process 1 met no bad file, so this shows nothing"
    assert not (two_then_one.workdir / "logs" / "skipped_0001.jsonl").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "first, again", [("one", "two_then_one"), ("two", "one_then_two")]
)
def test_a_restart_compiles_nothing_again(first, again, request):
    """On CPU this holds for process 0 only: there JAX names the programs of each
    process differently, and stores those of process 0 alone."""
    before, after = (
        request.getfixturevalue(name).records[0] for name in (first, again)
    )
    assert before["asked"] > before["found"]
    assert 0 < after["found"] == after["asked"]


# --- Ending together -----------------------------------------------------------------


def assert_both_end(ends, line):
    """Both exit with code 2; process 0 alone says why, in one line."""
    assert [code for code, *_ in ends] == [2, 2], ends
    (_, _, errors), (_, _, other_errors) = ends
    assert errors.count("snapvideo: error: ") == 1
    assert line in errors and "Traceback" not in errors
    assert "snapvideo: error" not in other_errors


@pytest.mark.slow
def test_processes_with_different_configs_end(root, tmp_path):
    arguments = train(root, tmp_path / "run")
    where = ["--process_count=2", f"--coordinator=localhost:{free_port()}"]
    ends = end(
        [
            start([*arguments, *where, f"--process_index={i}", f"--config.seed={i}"], 4)
            for i in (0, 1)
        ]
    )
    assert_both_end(ends, "process 1: The digest of the config is ")


@pytest.mark.slow
def test_an_error_of_one_process_ends_all(root, two, tmp_path):
    """Process 0 is then inside a step that waits for process 1."""
    programs = {"JAX_COMPILATION_CACHE_DIR": str(two.programs)}
    ends = together(
        train(root, tmp_path / "run"), more=(programs, programs | {"FAIL_AT": "1"})
    )
    line = "snapvideo: error: process 1: this batch was made to fail\n"
    assert_both_end(ends, line)
    log = (tmp_path / "run" / "logs" / "process_0001.log").read_text()
    assert "Traceback" in log and "this batch was made to fail" in log
    assert "this batch" in (tmp_path / "run/logs/process_0000.log").read_text()


# --- Settings of processes ------------------------------------------------------------

UNSET = ProcessOptions()
WHOLE = dict(coordinator="host:8476", process_count=4, process_index=3)


def as_variables(options):
    return {f"SNAPVIDEO_{name.upper()}": str(value) for name, value in options.items()}


def test_without_settings_there_is_no_configuration():
    assert settings(UNSET, {}) is None
    assert settings(UNSET, {"SNAPVIDEO_COORDINATOR": ""}) is None


def test_options_and_variables_are_equivalent():
    wanted = ProcessSettings("host:8476", 4, 3)
    assert settings(ProcessOptions(**WHOLE), {}) == wanted
    assert settings(UNSET, as_variables(WHOLE)) == wanted
    assert settings(ProcessOptions(process_index=1), as_variables(WHOLE)).index == 1


def test_one_process_needs_no_coordinator():
    assert settings(ProcessOptions(process_count=1), {}) == SINGLE_PROCESS
    first = ProcessOptions(**WHOLE | dict(process_count=1, process_index=0))
    assert settings(first, {}) == SINGLE_PROCESS


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"coordinator": ""},
            r"SNAPVIDEO_PROCESS_COUNT=4 is set, but SNAPVIDEO_COORDINATOR \(or "
            r"--coordinator\) is missing; set it to HOST:PORT of process 0",
        ),
        (
            {"process_count": ""},
            r"SNAPVIDEO_COORDINATOR=host:8476 is set, but SNAPVIDEO_PROCESS_COUNT .* "
            "is missing; set it to the number of processes",
        ),
        (
            {"process_index": ""},
            "SNAPVIDEO_PROCESS_INDEX .* is missing; set it to the number of this",
        ),
        ({"process_index": "4"}, "INDEX=4 is not one of the 4 processes; use 0 to 3"),
        ({"process_index": "-1"}, "INDEX=-1 is not a whole number of at least 0; use"),
        ({"process_count": "0"}, "COUNT=0 is not a whole number of at least 1; use 1"),
        ({"process_count": "two"}, "COUNT=two is not a whole number"),
        ({"coordinator": "host"}, "COORDINATOR=host has no port; .* host:8476"),
        ({"coordinator": ":8476"}, "COORDINATOR=:8476 has no host; use HOST:PORT"),
        ({"coordinator": "host:http"}, "has the port http; use 1 to 65535"),
        ({"coordinator": "host:70000"}, "has the port 70000; use 1 to 65535"),
    ],
)
def test_invalid_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        settings(UNSET, as_variables(WHOLE | changes))


def test_an_invalid_wait_is_refused():
    with pytest.raises(
        ValueError, match="--connect_seconds=0 is not a whole number of"
    ):
        initialize(ProcessOptions(connect_seconds=0))


def test_one_process_alone_joins_nothing(monkeypatch):
    monkeypatch.setenv("SNAPVIDEO_COORDINATOR", "nowhere:1")
    initialize(ProcessOptions(process_count=1))
    assert not jax.distributed.is_initialized()


def test_a_launcher_of_one_process_joins_nothing(monkeypatch):
    monkeypatch.delenv("SNAPVIDEO_PROCESS_COUNT")
    monkeypatch.setenv("SLURM_NTASKS", "1")
    initialize(UNSET)  # and not the error of devices in use
    assert not jax.distributed.is_initialized()


def test_a_missing_coordinator_is_an_error():
    options = ProcessOptions(
        coordinator=f"localhost:{free_port()}",
        process_count=2,
        process_index=1,
        connect_seconds=1,
    )
    with pytest.raises(
        ValueError,
        match=r"No process listens at the coordinator localhost:\d+ after 1 s "
        r"\(.*refused\); start process 0 there, correct SNAPVIDEO_COORDINATOR, or",
    ):
        initialize(options)


def test_a_port_that_is_taken_is_an_error():
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        options = ProcessOptions(
            coordinator=f"localhost:{port}", process_count=2, process_index=0
        )
        with pytest.raises(
            ValueError, match=f"cannot listen at the coordinator localhost:{port} .* in"
        ):
            initialize(options)


def test_missing_processes_end_the_program(monkeypatch, capsys):
    codes, ended = [], threading.Event()
    monkeypatch.setattr(distributed.os, "_exit", lambda code: end_with(code))

    def end_with(code):
        codes.append(code)
        ended.set()

    with distributed._deadline(0):
        assert ended.wait(PATIENCE_SECONDS)
    assert codes == [2]
    line = capsys.readouterr().err
    assert line.startswith(
        "snapvideo: error: Not all processes joined within 0 s; start"
    )
    assert line.count("\n") == 1


def test_processes_are_not_joined_once_devices_are_in_use(monkeypatch):
    monkeypatch.delenv("SNAPVIDEO_PROCESS_COUNT")
    assert jax.device_count() == 8
    with pytest.raises(
        ValueError,
        match=r"cannot be joined \(.*must be called before any JAX calls.*\); .*or set "
        "SNAPVIDEO_PROCESS_COUNT=1 to run this one by itself",
    ):
        initialize(UNSET)


def test_errors_of_jax_about_a_cluster_are_passed_on(monkeypatch):
    def half_a_cluster(**_):
        raise ValueError("Number of processes must be defined.")

    monkeypatch.delenv("SNAPVIDEO_PROCESS_COUNT")
    monkeypatch.setattr(jax.distributed, "initialize", half_a_cluster)
    with pytest.raises(ValueError, match="Number of processes must be defined"):
        initialize(UNSET)


# --- Agreeing ------------------------------------------------------------------------


class Board(dict):
    """A coordination service for tests in one process."""

    def key_value_set(self, key, value):
        self[key] = value

    def blocking_key_value_get(self, key, milliseconds):
        return self[key]


def test_all_processes_must_have_the_value_of_process_0(monkeypatch):
    board = Board()
    monkeypatch.setattr(coordinator, "client", lambda: board)
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    for index, value in enumerate(["12", "12"]):
        monkeypatch.setattr(jax, "process_index", lambda index=index: index)
        coordinator.assert_equal("The newest checkpoint", value, "share the folder")
    with pytest.raises(
        ValueError,
        match="The newest checkpoint is 0 here and 12 for process 0; share the folder.",
    ):
        coordinator.assert_equal("The newest checkpoint", "0", "share the folder")
