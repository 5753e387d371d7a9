"""The scripts of launch/ that are run: with a fake cloud, and for real.

No cloud is here: `gcloud` is played by a script that knows the states of a queued
resource. Hosts of a pod and processes of this machine are real.
"""

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest
import xla_flags
from helpers import TINY_CONFIG, kept_steps, read_metrics
from launching import GCLOUD, LAUNCH, RUN, SNAPVIDEO, TRAIN, call, program
from processes import PATIENCE_SECONDS, environment

# --- Pods ----------------------------------------------------------------------------


@pytest.fixture
def world(tmp_path):
    """A checkout of the scripts, and a cloud: what happened, and how it is played."""
    checkout = tmp_path / "checkout"
    shutil.copytree(LAUNCH, checkout / "launch")
    identity = ["-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false"]
    for words in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "all"]):
        subprocess.run(["git", *words], cwd=checkout, check=True)
    return World(tmp_path, checkout)


class World:
    """The state of the fake cloud."""

    def __init__(self, root, checkout):
        self.root, self.checkout = root, checkout
        program(root / "bin", "snapvideo", SNAPVIDEO)
        self.path = program(root / "bin", "gcloud", GCLOUD)

    def play(self, states, ends, *options):
        """Runs `run_pod.sh`; gives its exit code, output, and gcloud's verbs."""
        (self.root / "states").write_text("".join(f"{line}\n" for line in states))
        (self.root / "ends").write_text("".join(f"{line}\n" for line in ends))
        arguments = ["a", *RUN, *options, *TRAIN]
        about = {"PATH": self.path, "WORLD": str(self.root), "TMPDIR": str(self.root)}
        code, out, err = call(
            *("run_pod.sh", *arguments),
            cwd=self.checkout,
            SNAPVIDEO_POLL_SECONDS="0",
            **about,
        )
        verbs = self.root / "verbs"
        return code, out + err, verbs.read_text().split() if verbs.exists() else []


TRAINED = ["scp", "ssh", "ssh"]


@pytest.mark.parametrize(
    "states, ends, options, code, verbs",
    [
        # Is there, and trains.
        (["ACTIVE"], [0], [], 0, ["list", *TRAINED, "delete"]),
        # Is missing: asked for, waited for.
        (
            ["", "ACCEPTED", "WAITING_FOR_RESOURCES", "ACTIVE"],
            [0],
            [],
            0,
            ["list", "create", "list", "list", "list", *TRAINED, "delete"],
        ),
        # Was not granted, some time ago: deleted, and asked for again.
        (
            ["FAILED", "", "ACTIVE"],
            [0],
            [],
            0,
            ["list", "delete", "list", "create", "list", *TRAINED, "delete"],
        ),
        # Is not granted now.
        (["", "FAILED"], [], [], 75, ["list", "create", "list"]),
        # Was taken away: asked for again where that is wanted ...
        (
            ["ACTIVE", "SUSPENDING", "SUSPENDED", "", "ACTIVE"],
            ["gone", 0],
            ["--restarts", "1"],
            0,
            ["list", *TRAINED, "list", "list", "delete", "list", "create", "list"]
            + [*TRAINED, "delete"],
        ),
        # ... and else left to the same command.
        (["ACTIVE"], ["gone"], [], 75, ["list", *TRAINED]),
        # The run was preempted, and saved.
        (["ACTIVE", "SUSPENDED"], [75], [], 75, ["list", *TRAINED, "list"]),
        # An error of the pod's end is none of the run.
        (["ACTIVE", "SUSPENDED"], [2], [], 75, ["list", *TRAINED, "list"]),
        # An error of the run is.
        (["ACTIVE", "ACTIVE"], [3], [], 3, ["list", *TRAINED, "list", "delete"]),
        (["ACTIVE"], [0], ["--afterwards", "keep"], 0, ["list", *TRAINED]),
        # gcloud is content with having reached no host.
        (["ACTIVE", "SUSPENDED"], ["nobody"], [], 75, ["list", *TRAINED, "list"]),
        # Who cannot see the pod does not ask for another.
        (["error"], [], [], 75, ["list"]),
    ],
)
def test_a_pod_exists_as_long_as_its_run(world, states, ends, options, code, verbs):
    ended, said, called = world.play(states, ends, *options)
    assert called == verbs, said
    assert ended == code, said
    if ends and isinstance(ends[-1], int):
        assert f"told: train {' '.join(TRAIN[2:])}\n" in said
    if "delete" != verbs[-1]:
        assert "costs" in said and "delete_pod.sh a" in said


def test_a_request_that_fails_ends_the_script(world):
    (world.root / "create").write_text("1")
    code, _, verbs = world.play([""], [])
    assert (code, verbs) == (1, ["list", "create"])


def test_a_pod_gets_a_commit_and_nothing_that_differs_from_it(world):
    (world.checkout / "launch" / "train_pod.sh").write_text("exit\n")
    code, said, verbs = world.play(["ACTIVE"], [0])
    assert (code, verbs) == (2, []) and said.count("\n") == 1
    assert "Files differ from commit" in said


# --- One host ------------------------------------------------------------------------


@pytest.fixture
def host(tmp_path):
    """Starts `start_host.sh` on what waits in place of a training.

    In a copy of the scripts: the environment of this checkout, where it has one, would
    come before the command that is played.
    """
    launch = shutil.copytree(LAUNCH, tmp_path / "checkout" / "launch")
    path = program(tmp_path / "bin", "snapvideo", SNAPVIDEO)
    state = tmp_path / "state"
    about = dict(PATH=path, WAIT="1", SNAPVIDEO_HOST_STATE=str(state))
    started = []

    def start(*arguments):
        process = subprocess.Popen(
            [launch / "start_host.sh", *(arguments or TRAIN)],
            cwd=launch,
            env=os.environ | about,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    start.state = state
    yield start
    if (state / "pid").exists():
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int((state / "pid").read_text()), signal.SIGKILL)
    for process in started:  # Those that follow a log end with what writes it.
        process.kill()
        process.communicate()


def test_a_host_starts_a_training_once(host):
    first = host()
    assert first.stdout.readline() == f"told: train {' '.join(TRAIN[2:])}\n"
    pid = int((host.state / "pid").read_text())
    first.kill()  # as a lost connection does
    second = host()
    assert f"runs already, started by process {pid};" in second.stdout.readline()
    other = host(*TRAIN, "--config.seed=3")
    said, _ = other.communicate(timeout=PATIENCE_SECONDS)
    assert other.returncode == 2 and said.count("\n") == 1
    assert f"Another training runs here, process {pid}: train --config" in said
    os.killpg(pid, signal.SIGTERM)
    said, _ = second.communicate(timeout=PATIENCE_SECONDS)
    assert second.returncode == 75
    assert said.count("told: ") == 1
    assert said.endswith("The training ended with code 75.\n")


def test_a_killed_training_can_be_resumed(host):
    first = host()
    first.stdout.readline()
    os.killpg(int((host.state / "pid").read_text()), signal.SIGKILL)
    first.communicate(timeout=PATIENCE_SECONDS)
    assert first.returncode == 75
    again = host()
    assert again.stdout.readline().startswith("told: train")


# --- Processes of this machine -------------------------------------------------------


def test_processes_run_the_entry_of_a_pod_and_end_with_the_code_of_the_first(tmp_path):
    text = SNAPVIDEO.replace("${END:-0}", "$((SNAPVIDEO_PROCESS_INDEX * 4))")
    path = program(tmp_path, "snapvideo", text)
    where = ["--processes", "2", "--devices", "4"]
    code, out, _ = call("local.sh", *where, "--", "train", "--config", "c", PATH=path)
    assert code == 4  # of the second, as the first ended well
    assert out.count("launch/train_pod.sh --config c &\n") == 2
    assert out.count("told: train --config c\n") == 2
    code, out, _ = call("local.sh", *where, "--", "judge", PATH=path)
    assert out.count("told: judge\n") == 2


@pytest.mark.slow
def test_two_processes_train_until_they_are_preempted(shapes_root, tmp_path):
    workdir = tmp_path / "run"
    tools = str(pathlib.Path(sys.executable).parent)
    cache = {"JAX_COMPILATION_CACHE_DIR": os.environ["JAX_COMPILATION_CACHE_DIR"]}
    about = environment(1, PATH=f"{tools}:{os.environ['PATH']}", **cache)
    about["XLA_FLAGS"] = xla_flags.FAST_COMPILE
    process = subprocess.Popen(
        [
            *(LAUNCH / "local.sh", "--processes", "2", "--devices", "1"),
            *("--", "train", "--config", f"{TINY_CONFIG}:steps=100000"),
            *("--workdir", workdir, f"--config.data.root={shapes_root}"),
            *("--config.mesh.fsdp=2", "--config.run.checkpoint_every_steps=100000"),
        ],
        cwd=tmp_path,
        env=about,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    metrics, limit = workdir / "metrics.jsonl", time.monotonic() + PATIENCE_SECONDS
    try:
        while not metrics.is_file() or len(read_metrics(workdir)) < 3:
            assert process.poll() is None, process.communicate()[0][-3000:]
            assert time.monotonic() < limit
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 75, said[-3000:]
    (step,) = kept_steps(workdir)
    assert f"step {step} is saved" in said
    assert step >= 3 and read_metrics(workdir)[-1]["step"] == step
    assert (workdir / "logs" / "process_0001.log").is_file()
