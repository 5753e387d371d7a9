"""The scripts of launch/: what they would do, and what they refuse.

No cloud is here: dry runs print the commands. What is really run is in
test_launch_runs.py.
"""

import contextlib
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import kubernetes_validate
import pytest
import yaml
from documented import assert_each, where
from launching import CREATE, LAUNCH, ROOT, RUN, SLICE, TRAIN, WHERE, call, program

from snapvideo_jax.planning.target import SHAPES

GKE = ["--topology", "v5e:16x16", "--image", "r/i:1", "--storage", "claim:disk"]
GKE += ["--restarts", "3"]
DATAFLOW = [
    "--config",
    "configs/prepare.py",
    "--source",
    "gs://b/in",
    "--out",
    "gs://b/o",
]
DATAFLOW += ["--project", "p", "--region", "r", "--image", "i", "--max-workers", "9"]
SCRIPTS = sorted(LAUNCH.glob("*.sh"))


def stem(path):
    return path.name


def dry(script, *arguments):
    """The commands that a script would run, and all that it prints."""
    code, out, err = call(script, "--dry-run", *arguments)
    assert (code, err) == (0, "")
    return [shlex.split(line[2:]) for line in out.splitlines() if line[0] == "+"], out


def without(arguments, option):
    at = arguments.index(option)
    return arguments[:at] + arguments[at + 2 :]


# --- All scripts ---------------------------------------------------------------------


def test_shellcheck_finds_no_problem():
    places = f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
    checker = shutil.which("shellcheck", path=places)
    ran = subprocess.run(
        [checker, "--external-sources", *SCRIPTS],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (ran.returncode, ran.stdout) == (0, "")


def test_scripts_that_are_run_are_executable():
    run = [path for path in SCRIPTS if path.read_text().startswith("#!")]
    assert run and [path for path in SCRIPTS if os.access(path, os.X_OK)] == run


@pytest.mark.parametrize(
    "path", [path for path in SCRIPTS if "_cloud.sh" in path.read_text()], ids=stem
)
def test_help_is_the_comment_at_the_top(path):
    if not os.access(path, os.X_OK):
        pytest.skip("is sourced")
    code, out, err = call(path.name, "--help")
    assert (code, err) == (0, "")
    assert f"launch/{path.name} " in out and "--dry-run" in out
    # Every option that the script reads is explained.
    known = re.search(r'read_options "([^"]+)" "([^"]*)"', path.read_text())
    for option in " ".join(known.groups() if known else ()).replace("\\\n", "").split():
        explained = option in out or path.name in ("run_pod.sh", "multislice.sh")
        assert explained, f"--{option}"


@pytest.mark.parametrize(
    "script, arguments, parts",
    [
        ("create_pod.sh", CREATE, ["Wanted one name, of the pod; got 0"]),
        ("create_pod.sh", ["My_Pod", *CREATE], ["'My_Pod' cannot name the pod"]),
        ("create_pod.sh", ["a", *CREATE, "--zoen", "z"], ["Unknown option '--zoen'"]),
        (
            "create_pod.sh",
            ["a", "--project", "--zone", "z"],
            ["--project has no value"],
        ),
        ("create_pod.sh", ["a", *without(CREATE, "--zone")], ["--zone is missing"]),
        (
            "create_pod.sh",
            ["a", *CREATE, "--topology", "v5p:4x4x9"],
            ["--topology=v5p:4x4x9 does not exist", "4x4x8"],
        ),
        (
            "create_pod.sh",
            ["a", *CREATE, "--topology", "h100:8"],
            ["chip 'h100' is unknown", "v4, v5e, v5p, v6e"],
        ),
        (
            "create_pod.sh",
            ["a", *CREATE, "--capacity", "cheap"],
            ["--capacity is 'cheap'", "spot, reserved or on-demand"],
        ),
        ("create_pod.sh", ["a", *CREATE, "--queue-for", "6"], ["30m, 6h or 2d"]),
        ("create_pod.sh", ["a", *CREATE, "--slices", "0"], ["--slices is '0'"]),
        (
            "create_pod.sh",
            ["a", *CREATE, "--slices", "a[$(date)]"],
            ["--slices is 'a["],
        ),
        ("delete_pod.sh", ["a", "--project", "p"], ["--zone is missing"]),
        ("run_pod.sh", ["a", *RUN], ["The command after -- is ''"]),
        ("run_pod.sh", ["a", *RUN, *TRAIN[:-2]], ["--workdir is missing after --"]),
        (
            "run_pod.sh",
            ["a", *RUN, *TRAIN[:-1], "runs/1"],
            ["--workdir=runs/1 is not on the shared storage", "/mnt/snapvideo"],
        ),
        (
            "run_pod.sh",
            ["a", *RUN, *TRAIN[:-1], "gs://bucket/runs/1"],
            ["is not a folder", "--storage gs://bucket/"],
        ),
        ("run_pod.sh", ["a", *without(RUN, "--zone"), *TRAIN], ["--zone is missing"]),
        (
            "run_pod.sh",
            ["a", *RUN, "--storage", "disk", *TRAIN],
            ["--storage is 'disk'", "SERVER:/SHARE"],
        ),
        (
            "run_pod.sh",
            ["a", *RUN, "--afterwards", "stop", *TRAIN],
            ["--afterwards is 'stop'; wanted delete or keep"],
        ),
        ("run_pod.sh", ["a", *RUN, "--restarts", "x", *TRAIN], ["--restarts is 'x'"]),
        ("start_host.sh", ["--", "sample"], ["The command after -- is 'sample'"]),
        ("gke.sh", ["a", *GKE, "--storage", "disk", *TRAIN], ["gs://BUCKET or claim:"]),
        ("gke.sh", ["a", *without(GKE, "--image"), *TRAIN], ["--image is missing"]),
        ("gke.sh", ["a", *GKE, *TRAIN, "a\nb"], ["which a manifest must not have"]),
        ("xpk.sh", ["a", *SLICE, "--image", "i", *TRAIN], ["--cluster is missing"]),
        ("local.sh", ["--", "train"], ["--processes is missing"]),
        ("local.sh", ["--processes", "0", "--", "train"], ["--processes is '0'"]),
        ("local.sh", ["--processes", "2"], ["The command after -- is missing"]),
        (
            "prepare_dataflow.sh",
            [*DATAFLOW, "--out", "prepared"],
            ["--out is 'prepared', which the workers cannot reach"],
        ),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_done(
    script, arguments, parts, tmp_path
):
    path = program(tmp_path, "gcloud", "#!/bin/sh\ntouch $(dirname $0)/called\n")
    shutil.copy(tmp_path / "gcloud", tmp_path / "kubectl")
    code, out, err = call(script, *arguments, PATH=path)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1, err
    for part in parts:
        assert part in err
    assert not (tmp_path / "called").exists()


def test_commands_of_the_docs_are_valid():
    def check(command):
        if command[0] == "docker":
            assert (ROOT / command[command.index("-f") + 1]).is_file()
            return
        script, *arguments = command
        given = [] if "--dry-run" in arguments else ["--dry-run"]
        code, out, err = call(pathlib.Path(script).name, *given, *arguments)
        assert (code, err) == (0, "") and out

    starts = ("launch/", "docker")
    found = where(lambda words: words[0].startswith(starts) and "..." not in words)
    assert_each(check, found)


# --- Pods ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "topology, accelerator, hosts, version",
    [
        ("v4:4x4x4", "v4-128", 16, "tpu-ubuntu2204-base"),
        ("v5p:4x4x8", "v5p-256", 32, "v2-alpha-tpuv5"),
        ("v5e:2x4", "v5litepod-8", 1, "v2-alpha-tpuv5-lite"),
        ("v5e:16x16", "v5litepod-256", 64, "v2-alpha-tpuv5-lite"),
        ("v6e:2x2", "v6e-4", 1, "v2-alpha-tpuv6e"),
    ],
)
def test_a_planned_topology_is_requested_by_its_name(
    topology, accelerator, hosts, version
):
    ((*gcloud,),), out = dry("create_pod.sh", "a", *CREATE, "--topology", topology)
    assert gcloud[:6] == "gcloud compute tpus queued-resources create a".split()
    assert f"--accelerator-type={accelerator}" in gcloud
    assert f"--runtime-version={version}" in gcloud
    assert {"--spot", "--node-id=a", "--valid-until-duration=6h"} <= set(gcloud)
    assert f"in {hosts} hosts" in out


@pytest.mark.parametrize("chip, dims", [("v5e", 2), ("v5p", 3)])
def test_the_slices_are_those_that_plans_know(chip, dims):
    wrong = ["--topology", f"{chip}:7x7"]
    _, _, err = call("create_pod.sh", "a", *CREATE, *wrong)
    assert err.endswith(f"use {chip}: with a shape of {', '.join(SHAPES[dims])}.\n")


def test_several_slices_are_nodes_of_one_request():
    more = ["--slices", "2", "--capacity", "reserved", "--internal-ips"]
    ((*gcloud,),), _ = dry("create_pod.sh", "a", *CREATE, *more)
    assert {"--node-count=2", "--node-prefix=a", "--reserved"} <= set(gcloud)
    assert "--internal-ips" in gcloud
    assert not {"--spot", "--node-id=a"} & set(gcloud)


def test_a_dry_run_of_a_pod_shows_every_step_in_order():
    commands, _ = dry("run_pod.sh", "a", *RUN, *TRAIN)
    verbs = [words[4] if words[0] == "gcloud" else words[1] for words in commands]
    assert verbs == ["create", "delete", "archive", "scp", "ssh", "ssh", "delete"]
    start = commands[5][-1].removeprefix("--command=")
    assert shlex.split(start)[1:] == TRAIN
    # All hosts at once: the default is 64, and the others would never be started.
    for words in commands[3:6]:
        assert {"--node=all", "--worker=all", "--batch-size=all"} <= set(words)


@pytest.mark.parametrize(
    "storage, words",
    [
        ("gs://bucket", ["gcsfuse", "--implicit-dirs", "bucket", "/mnt/snapvideo"]),
        ("10.0.0.2:/share", ["mount", "-t", "nfs", "10.0.0.2:/share"]),
    ],
)
def test_a_host_mounts_the_storage_and_installs_the_checkout(storage, words):
    commands, _ = dry("setup_host.sh", "--storage", storage)
    assert any(set(words) <= set(command) for command in commands)
    assert any(".[tpu]" in command for command in commands)


# --- GKE, xpk, Dataflow --------------------------------------------------------------


@contextlib.contextmanager
def check_schema():
    """Fails with the message of a schema, which raises its own exceptions."""
    try:
        yield
    except kubernetes_validate.ValidationError as error:
        pytest.fail(str(error))


def manifest(*arguments):
    """What `gke.sh` would apply, read back."""
    code, out, err = call("gke.sh", "fit", *GKE, "--dry-run", *arguments)
    assert (code, err) == (0, "")
    return yaml.safe_load(out)


@pytest.mark.parametrize("storage", ["claim:disk", "gs://bucket/"])
@pytest.mark.parametrize("more", [[], ["--spot", "--queue", "team"]])
def test_the_jobs_of_the_manifest_are_valid(storage, more):
    """By Kubernetes' schema of a Job. What JobSet adds is looked at below."""
    found = manifest("--storage", storage, *more, *TRAIN)
    (jobs,) = found["spec"]["replicatedJobs"]
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "fit"}}
    with check_schema():
        kubernetes_validate.validate(
            job | {"spec": jobs["template"]["spec"]}, "1.34", strict=True
        )


def test_the_manifest_has_a_job_for_each_slice_and_a_pod_for_each_host():
    found = manifest("--slices", "2", "--spot", "--queue", "team", *TRAIN)
    assert found["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
    assert (found["kind"], found["metadata"]["name"]) == ("JobSet", "fit")
    assert found["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "team"}
    (jobs,) = found["spec"]["replicatedJobs"]
    job = jobs["template"]["spec"]
    assert jobs["replicas"] == 2
    assert job["completions"] == job["parallelism"] == 256 // 4
    pod = job["template"]["spec"]
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "16x16",
        "cloud.google.com/gke-spot": "true",
    }
    (container,) = pod["containers"]
    assert container["resources"]["limits"] == {"google.com/tpu": "4"}
    assert container["command"] == ["launch/train_pod.sh"]
    assert container["args"] == TRAIN[2:]


def test_the_manifest_restarts_after_preemptions():
    spec = manifest(*TRAIN)["spec"]
    assert spec["failurePolicy"]["maxRestarts"] == 3
    (rule,) = spec["failurePolicy"]["rules"]
    assert rule["action"] == "RestartJobSetAndIgnoreMaxRestarts"
    assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
    job = spec["replicatedJobs"][0]["template"]["spec"]
    taken, told = job["podFailurePolicy"]["rules"]
    assert taken["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert told["onExitCodes"]["values"] == [75]
    assert job["template"]["spec"]["restartPolicy"] == "Never"


def test_arguments_reach_the_manifest_as_they_are():
    words = ['--config.sheets.prompts=("a", "b\\c")', "yes", "1", "# no", "a: b", "{é}"]
    found = manifest(*TRAIN, *words)
    pod = found["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    assert pod["containers"][0]["args"] == TRAIN[2:] + words


def test_a_name_that_is_a_yaml_keyword_stays_a_string():
    code, out, _ = call("gke.sh", "yes", *GKE, "--dry-run", *TRAIN)
    assert code == 0 and yaml.safe_load(out)["metadata"]["name"] == "yes"


def test_a_bucket_is_mounted_by_its_driver():
    found = manifest("--storage", "gs://bucket/", *TRAIN)
    pod = found["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
    assert pod["metadata"]["annotations"] == {"gke-gcsfuse/volumes": "true"}
    (volume,) = pod["spec"]["volumes"]
    assert volume["csi"]["volumeAttributes"]["bucketName"] == "bucket"


def test_xpk_gets_one_command():
    more = ["--image", "i", "--cluster", "c", *WHERE, "--restarts", "3"]
    ((*xpk,),), _ = dry("xpk.sh", "a", *SLICE, *more, *TRAIN, "--config.text=a b")
    assert xpk[:3] == ["xpk", "workload", "create"]
    assert {"--tpu-type=v5p-256", "--num-slices=1", "--max-restarts=3"} <= set(xpk)
    told = shlex.split(xpk[-1].removeprefix("--command="))
    assert told == ["exec", "launch/train_pod.sh", *TRAIN[2:], "--config.text=a b"]


def test_each_slice_has_a_replica_of_the_state():
    commands, _ = dry("multislice.sh", "a", *RUN[2:], "--", "--config.seed=3")
    assert "--node-count=2" in commands[0]
    start = shlex.split(commands[5][-1].removeprefix("--command="))
    assert "--config.mesh.replica=2" in start and start[-1] == "--config.seed=3"


def test_dataflow_gets_the_options_of_its_runner():
    more = ["--machine-type", "n2-standard-8", "--", "--config.video_shards=7"]
    ((*words,),), _ = dry("prepare_dataflow.sh", *DATAFLOW, *more)
    assert words[:2] == ["snapvideo", "prepare"]
    at = words.index("--")
    assert "--config.video_shards=7" in words[:at]
    from apache_beam.options import pipeline_options as beam

    read = beam.PipelineOptions(words[at + 1 :])
    cloud = read.view_as(beam.GoogleCloudOptions)
    workers = read.view_as(beam.WorkerOptions)
    assert read.view_as(beam.StandardOptions).runner == "DataflowRunner"
    assert (cloud.project, cloud.region) == ("p", "r")
    assert cloud.temp_location == "gs://b/o/dataflow"
    assert (workers.max_num_workers, workers.machine_type) == (9, "n2-standard-8")
    assert workers.sdk_container_image == "i"
    assert read.view_as(beam.SetupOptions).sdk_location == "container"
