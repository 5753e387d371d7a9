"""Golden plans: recompiled plans equal them, and docs/plans.md shows them."""

import copy
import datetime
import json
import os
import pathlib
import random
import subprocess

import pytest
from helpers import golden_plan

from snapvideo_jax import planning
from snapvideo_jax.planning import compiler_flags, golden_plans
from snapvideo_jax.planning.golden_plans import GOLDEN_PLANS, drift

ROOT = pathlib.Path(__file__).parent.parent
LARGE = "SNAPVIDEO_LARGE_PLANS"
"""The variable with which one large plan, or as many as it says, is compiled again."""
SMALL = [each for each in GOLDEN_PLANS.values() if each.is_small]


def drawn():
    """Large goldens to compile again, and the seed that drew them: commit and day."""
    ran = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True
    )
    seed = f"{ran.stdout.strip()} {datetime.date.today()}"
    large = [each.name for each in GOLDEN_PLANS.values() if not each.is_small]
    count = min(int(os.environ.get(LARGE, "0")), len(large))
    return random.Random(seed).sample(large, count), seed


# --- They hold -----------------------------------------------------------------------


@pytest.mark.tpu_compile
@pytest.mark.timeout(3600)
def test_large_plans_that_are_drawn_still_hold():
    names, seed = drawn()
    if not names:
        pytest.skip(f"{LARGE}=1 compiles one, which takes minutes")
    for name in names:
        found = drift(
            golden_plan(name), planning.compile_plan(GOLDEN_PLANS[name].request())
        )
        assert not found, f"{name}, drawn by {seed!r}: {found}"


def test_every_golden_plan_has_the_command_and_topology_of_its_name():
    files = {path.stem for path in golden_plans.FOLDER.glob("*.json")}
    assert files and files <= set(GOLDEN_PLANS)
    for name in files:
        found = GOLDEN_PLANS[name].read()
        assert found["command"] == GOLDEN_PLANS[name].command, name
        assert found["plan"]["topology"] == GOLDEN_PLANS[name].topology


@pytest.mark.parametrize("name", GOLDEN_PLANS)
def test_every_golden_has_a_config_that_is_there(name):
    assert GOLDEN_PLANS[name].request().target.chip.hbm_bytes


def test_the_page_of_plans_is_what_the_goldens_make():
    page = (ROOT / "docs" / "plans.md").read_text(encoding="utf-8")
    assert page == golden_plans.page()


def test_the_page_says_what_is_not_there(monkeypatch):
    monkeypatch.setattr(golden_plans, "FOLDER", ROOT / "nowhere")
    page = golden_plans.page()
    assert "Not generated yet: " in page and page.count("sample-demo-v5e-2x2") == 2


# --- Drift ---------------------------------------------------------------------------

PLAN = {
    "bytes": {"peak": 1e9},
    "flops": {"model": 1e12, "program": 1.2e12},
    "collectives": [
        {"op": "all-gather", "axis": "fsdp", "dtype": "bf16", "overlapped": False}
        | {"bytes": 5e6},
        {"op": "all-reduce", "axis": "fsdp", "dtype": "f32", "overlapped": True}
        | {"bytes": 9e9},
    ],
}


def changed(*path, to):
    """The plan with one value changed."""
    other = copy.deepcopy(PLAN)
    part = other
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = to
    return other


@pytest.mark.parametrize(
    "path, to, said",
    [
        (("bytes", "peak"), 1.03e9, r"bytes.peak was 1e+09, is 1.03e+09 (+3.0%)"),
        (("flops", "model"), 0.9e12, "flops.model was 1e+12, is 9e+11 (-10.0%)"),
        (("flops", "program"), 1.3e12, "flops.program was 1.2e+12"),
        (
            ("collectives", 0, "bytes"),
            6.1e6,
            "synchronous all-gather of bf16 over fsdp was 5 MB, is 6.1 MB",
        ),
        (
            ("collectives", 1, "overlapped"),
            False,
            "synchronous all-reduce of f32 over fsdp is new: 9 GB",
        ),
        (("collectives", 0, "dtype"), "f32", "all-gather of f32 over fsdp is new"),
    ],
)
def test_what_drifts_is_named(path, to, said):
    (found,) = drift(PLAN, changed(*path, to=to))
    assert said in found


def test_small_changes_and_hidden_collectives_are_no_drift():
    assert drift(PLAN, PLAN) == []
    assert drift(PLAN, changed("bytes", "peak", to=1.019e9)) == []
    assert drift(PLAN, changed("collectives", 0, "bytes", to=5.9e6)) == []
    assert drift(PLAN, changed("collectives", 0, "overlapped", to=True)) == []
    assert drift(PLAN, changed("collectives", 1, "bytes", to=99e9)) == []


def test_a_program_that_stops_fitting_has_drifted():
    refused = {"bytes": {"peak": 17e9}, "fits": False}
    assert any("bytes.peak" in each for each in drift(PLAN, refused))


def test_another_compiler_is_a_reason_to_skip(monkeypatch):
    monkeypatch.setattr(golden_plans, "versions", lambda: {"jax": "0.0.1"})
    with pytest.raises(pytest.skip.Exception, match=r"not with \{'jax': '0.0.1'\}"):
        golden_plan(SMALL[0].name)


# --- Making them ---------------------------------------------------------------------


def test_goldens_are_chosen_by_name():
    assert [each.name for each in golden_plans.chosen("all")] == list(GOLDEN_PLANS)
    assert golden_plans.chosen("small") == SMALL
    names = "demo-v5e-2x2,fit-3p9b-v5p-4x4x8"
    assert [each.name for each in golden_plans.chosen(names)] == names.split(",")
    with pytest.raises(ValueError, match="unknown; did you mean 'demo-v5e-2x2'"):
        golden_plans.chosen("demo-v5e-2x3")
    with pytest.raises(ValueError, match="--golden=zzz is unknown; use small, all or"):
        golden_plans.chosen("zzz")


def test_a_golden_is_written_with_its_compiler_and_the_page_anew(monkeypatch, tmp_path):
    was = golden_plan("demo-v5e-2x2")
    result = was | {"compile_seconds": 7.0}
    monkeypatch.setattr(golden_plans, "ROOT", ROOT)
    monkeypatch.setattr(golden_plans, "FOLDER", tmp_path / "plans")
    monkeypatch.setattr(golden_plans, "PAGE", tmp_path / "plans.md")
    monkeypatch.setattr(golden_plans.cache, "cached_plan", lambda request: result)
    golden_plans.regenerate("demo-v5e-2x2")
    written = json.loads((tmp_path / "plans" / "demo-v5e-2x2.json").read_text())
    assert written["command"].startswith("snapvideo plan --config configs/demo.py")
    assert written["made_with"] == golden_plans.versions()
    assert written["plan"] == was
    assert "| demo-v5e-2x2 |" in (tmp_path / "plans.md").read_text()


def test_outside_of_a_checkout_no_golden_is_made(monkeypatch, tmp_path):
    monkeypatch.setattr(golden_plans, "ROOT", tmp_path)
    with pytest.raises(ValueError, match="is not a checkout of the repository"):
        golden_plans.regenerate("small")


# --- Flags and the launcher ----------------------------------------------------------


def bash(script, **environment):
    ran = subprocess.run(
        ["bash", "-c", script],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_the_launchers_flags_are_those_of_plans(tmp_path):
    file = tmp_path / "flags.sh"
    compiler_flags.write(file)
    kept_file = ROOT / "launch" / "libtpu_flags.sh"
    assert kept_file.read_text() == file.read_text(), (
        "snapvideo plan --flags launch/libtpu_flags.sh"
    )
    script = f"source {file}; printenv LIBTPU_INIT_ARGS"
    assert bash(script).split() == list(compiler_flags.LIBTPU_FLAGS)
    assert bash(script, LIBTPU_INIT_ARGS="--mine").strip() == "--mine"
    with pytest.raises(ValueError, match="--flags=.*none.*cannot be written"):
        compiler_flags.write(tmp_path / "none" / "flags.sh")


@pytest.mark.parametrize(
    "own, wanted", [({}, compiler_flags.DEFAULT), ({"A": "--b"}, "--b")]
)
def test_a_pod_trains_with_the_flags(tmp_path, own, wanted):
    program = tmp_path / "snapvideo"
    program.write_text('#!/usr/bin/env bash\necho "$@"; echo "$LIBTPU_INIT_ARGS"\n')
    program.chmod(0o755)
    settings = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    if own:
        settings["LIBTPU_INIT_ARGS"] = own["A"]
    out = bash("launch/train_pod.sh --config c.py --workdir w", **settings)
    command, found = out.splitlines()
    assert command == "train --config c.py --workdir w" and found == wanted
