"""Plans: the train step and the sampler, compiled ahead of time for TPUs."""

import functools
import json
import re
import sys

import jax
import pytest
from helpers import TINY_CONFIG, golden_plan, tiny_config

from snapvideo_jax import __main__, planning
from snapvideo_jax.planning import PlanRequest, Target, cache, compile, target
from snapvideo_jax.planning.golden_plans import GOLDEN_PLANS, drift

SMALL = Target("v5e:2x2")


@functools.cache
def compiled(name):
    """A golden plan, by this code."""
    return planning.compile_plan(GOLDEN_PLANS[name].request())


def small_plan():
    """The train step of a small FIT, divided over four chips."""
    return compiled("demo-v5e-2x2")


def small_sampler():
    """Of 62 clips, which the four devices fill up to 64."""
    return compiled("sample-demo-v5e-2x2")


@pytest.fixture
def plan_cache(tmp_path, monkeypatch):
    """An empty folder of plans."""
    monkeypatch.setattr(cache, "CACHE", tmp_path / "plans")
    return tmp_path / "plans"


@pytest.mark.tpu_compile
@pytest.mark.parametrize("name", ["demo-v5e-2x2", "sample-demo-v5e-2x2"])
def test_small_golden_plans_are_reproduced(name):
    found = drift(golden_plan(name), compiled(name))
    assert not found, f"{found}; if it is meant: snapvideo plan --golden {name}"


@pytest.mark.tpu_compile
def test_memory_is_that_of_the_state_and_what_the_compiler_adds():
    memory, parameters = small_plan()["bytes"], small_plan()["parameters"]
    # A few vectors lie whole on every device; all else is divided by four.
    assert parameters < memory["parameters"] < 1.1 * parameters
    assert memory["optimizer"] == pytest.approx(2 * memory["parameters"], rel=1e-3)
    assert memory["ema"] == memory["parameters"]
    state = sum(memory[name] for name in ("parameters", "optimizer", "ema"))
    # Small arrays fill their tiles badly.
    assert state < memory["peak"] < 2 * (state + memory["temporaries"])
    assert memory["limit"] == 15.5e9 and small_plan()["fits"]


@pytest.mark.tpu_compile
def test_the_program_computes_what_the_model_does_and_what_it_recomputes():
    flops = small_plan()["flops"]
    # Half of the samples are self-conditioned: 3.5 forward passes.
    assert flops["passes"] == 3.5
    forward = sum(flops["forward_per_sample"].values())
    assert flops["model"] == pytest.approx(3.5 * forward * 64 / 4)
    assert 1 < flops["program_over_model"] < 1.5


@pytest.mark.tpu_compile
def test_parameters_travel_as_bfloat16_and_gradients_are_scattered():
    sent = small_plan()["collectives"]
    gathers = [row for row in sent if row["op"] == "all-gather"]
    assert sum(row["bytes"] for row in gathers if row["dtype"] == "bf16") > 1e6
    assert all(row["largest"] < 1e5 for row in gathers if row["dtype"] == "f32")
    reduced = [row for row in sent if row["op"] == "all-reduce"]
    assert all(row["largest"] < 1e6 for row in reduced)


@pytest.mark.tpu_compile
def test_times_and_the_whole_run_agree():
    result = small_plan()
    seconds = result["seconds"]
    assert seconds["step"] == seconds["compute"] + seconds["exposed"]
    assert result["steps_per_day"] == pytest.approx(86400 / seconds["step"])
    assert result["days"] == pytest.approx(1700 * seconds["step"] / 86400)
    assert result["chip_hours"] == pytest.approx(1700 * seconds["step"] * 4 / 3600)
    assert result["clips_per_second"] == pytest.approx(64 / seconds["step"])
    rate = result["flops"]["model"] / seconds["step"]
    assert result["mfu"]["step"] == pytest.approx(rate / 197e12)


@pytest.mark.tpu_compile
def test_a_sampler_costs_an_evaluation_less_than_two_a_step():
    result = small_sampler()
    assert (result["program"], result["batch"], result["steps"]) == ("sampler", 62, 24)
    assert result["evaluations"] == 2 * 24 - 1
    # Guidance evaluates every clip with and without its caption.
    flops = result["flops"]
    assert flops["passes"] == 2 * 47
    forward = sum(flops["forward_per_sample"].values())
    assert flops["model"] == pytest.approx(2 * 47 * forward * 64 / 4)
    # Where keys are few, projections of queries fold into them: the program does less.
    assert 0.8 < flops["program_over_model"] < 1.1


@pytest.mark.tpu_compile
def test_a_sampler_holds_parameters_and_neither_moments_nor_gradients():
    memory = small_sampler()["bytes"]
    assert memory["parameters"] == 4 * small_sampler()["parameters"]
    assert not {"optimizer", "ema"} & set(memory)
    assert memory["parameters"] < memory["peak"] < memory["limit"]


@pytest.mark.tpu_compile
def test_the_time_of_a_clip_is_its_share_of_the_batch():
    result = small_sampler()
    seconds = result["seconds"]
    assert seconds["batch"] == seconds["compute"] + seconds["exposed"]
    assert result["seconds_per_clip"] == pytest.approx(seconds["batch"] / 62)
    assert result["chip_seconds_per_clip"] == 4 * result["seconds_per_clip"]
    assert result["clips_per_second"] == pytest.approx(62 / seconds["batch"])
    text = planning.describe(result)
    assert (
        "sampler       batch 62, 24 steps of heun, guidance 2 (1 + g = 3): "
        "47 evaluations" in text
    )


@pytest.mark.tpu_compile
def test_a_plan_is_plain_data_and_reads_as_text():
    assert json.loads(json.dumps(small_plan())) == small_plan()
    text = planning.describe(small_plan())
    assert "1 x v5e:2x2, 4 devices: fsdp 4" in text
    assert "does NOT fit" not in text and "MFU" in text


@pytest.mark.tpu_compile
def test_a_step_that_does_not_fit_says_by_how_much():
    result = small_plan() | {"fits": False}
    result["bytes"] = small_plan()["bytes"] | {"peak": 17.0e9}
    assert "does NOT fit  by 1.5 GB a device" in planning.describe(result)


def test_the_memory_is_read_from_the_compilers_refusal():
    refusal = RuntimeError("Ran out of memory. Used 33.27G of 30.75G hbm. Exceeded ...")
    assert compile._exhausted(refusal) == 33.27 * 2**30
    refusal = RuntimeError(
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for "
        "HLO temporaries (32.17G) exceeds available HBM (31.25G)."
    )
    assert compile._exhausted(refusal) == 32.17 * 2**30
    with pytest.raises(RuntimeError, match="something else"):
        compile._exhausted(RuntimeError("something else"))


def test_a_second_plan_comes_from_the_cache(plan_cache, monkeypatch):
    calls = []
    monkeypatch.setattr(
        cache, "compile_plan", lambda asked: calls.append(asked) or {"n": 1}
    )
    request = PlanRequest(tiny_config("nowhere"), SMALL)
    assert not cache.is_cached(request)
    assert planning.cached_plan(request) == planning.cached_plan(request) == {"n": 1}
    assert cache.is_cached(request)
    assert len(calls) == 1 and len(list(plan_cache.iterdir())) == 1
    planning.cached_plan(
        PlanRequest(tiny_config("nowhere", "model.dropout=0.2"), SMALL)
    )
    planning.cached_plan(
        PlanRequest(tiny_config("nowhere"), Target("v5e:2x2", slices=2))
    )
    planning.cached_plan(PlanRequest(tiny_config("nowhere"), SMALL, clips=8))
    assert len(calls) == 4


def test_a_refusal_of_the_compiler_is_cached_too(plan_cache, monkeypatch):
    calls = []

    def compile_plan(request):
        calls.append(request)
        raise jax.errors.JaxRuntimeError("INTERNAL: Mosaic cannot\nmore of it")

    monkeypatch.setattr(cache, "compile_plan", compile_plan)
    for _ in range(2):
        with pytest.raises(ValueError, match="refuses the program: .* cannot$"):
            planning.cached_plan(PlanRequest(tiny_config("nowhere"), SMALL))
    assert len(calls) == 1


CONFIG = ("--config", TINY_CONFIG)
OF_V5E = (*CONFIG, "--topology", "v5e:2x2")


@pytest.mark.parametrize(
    "line, message",
    [
        ((), "--config is missing; give the config to plan"),
        (CONFIG, "--topology is missing; use CHIP:SHAPE, as v5p:4x4x8"),
        ((*CONFIG, "--topology", "v9:2x2"), "chip 'v9' is unknown; use CHIP:SHAPE"),
        ((*CONFIG, "--topology", "A100:8"), "chip 'A100' is unknown"),
        (
            (*CONFIG, "--topology", "v5e:3x5"),
            "--topology=v5e:3x5 does not exist: .*as v5e:16x16",
        ),
        (
            (*OF_V5E, "--slices", "0"),
            "argument --slices: 0 is too small; use 1 or more",
        ),
        (
            (*OF_V5E, "--sampler", "--search"),
            "--sampler and --search exclude each",
        ),
        ((*OF_V5E, "--layout", "--search"), "--search and --layout exclude each other"),
        (
            (*OF_V5E, "--search", "--search_limit", "0"),
            "argument --search_limit: 0 is too small",
        ),
        ((*OF_V5E, "--search_limit", "3"), "--search_limit requires --search; add it"),
        ((*OF_V5E, "--sampler", "--batch", "0"), "argument --batch: 0 is too small"),
        ((*OF_V5E, "--batch", "3"), "--batch requires --sampler; add it"),
        ((*OF_V5E, "--golden", "small"), "--golden plans have their own configs"),
        (("--golden", "demo-v5e"), "=demo-v5e is unknown; did you mean 'demo-v5e-2x2'"),
        (("--flags", "no/such/folder"), "--flags=no/such/folder cannot be written"),
        (
            (*OF_V5E, "--config.mesh.fsdp=8"),
            "mesh.fsdp=8 does not divide the 4 devices",
        ),
        (
            (*OF_V5E, "--config.mesh.fsdp=4", "--config.mesh.tensor=3"),
            "mesh.fsdp=4 x mesh.tensor=3 = 12 does not divide the 4 devices",
        ),
        (
            (*CONFIG, "--topology", "v5e:4x4", "--config.mesh.fsdp=16"),
            "batch of 8 .*not a multiple of the 16 parts",
        ),
    ],
)
def test_what_cannot_be_planned_is_one_line(
    line, message, plan_cache, monkeypatch, capsys
):
    monkeypatch.setattr(sys, "argv", ["snapvideo", "plan", *line])
    with pytest.raises(SystemExit, match="2"):
        __main__.main()
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(message, error), error
    assert error.startswith("snapvideo: error: ")
    assert not plan_cache.exists()


def test_an_upsampler_has_no_sampler_to_plan():
    changes = ("model.in_channels=6", "training.low_resolution=(7,8)")
    config = tiny_config("nowhere", *changes)
    with pytest.raises(ValueError, match="enlarges clips and samples none"):
        planning.compile_plan(PlanRequest(config, SMALL, clips=4))


def test_a_layout_needs_no_compilation(plan_cache, monkeypatch, capsys):
    line = ["snapvideo", "plan", *OF_V5E, "--config.mesh.fsdp=4", "--layout"]
    monkeypatch.setattr(sys, "argv", line)
    __main__.main()
    out = capsys.readouterr().out
    assert "hidden/kernel[blocks, embed_fsdp, mlp]  2 x 16 x 64  " in out


@pytest.mark.tpu_compile
def test_a_plan_that_does_not_fit_reports_a_change_that_does(
    plan_cache, monkeypatch, capsys
):
    """Through the command line, with simulated compilations."""
    asked = []

    def compile_plan(request):
        asked.append(request)
        fits = len(asked) > 1
        return small_plan() | {
            "fits": fits,
            "bytes": small_plan()["bytes"] | {"peak": 9e9 if fits else 17e9},
        }

    monkeypatch.setattr(cache, "compile_plan", compile_plan)
    monkeypatch.setattr(sys, "argv", ["snapvideo", "plan", *OF_V5E])
    __main__.main()
    out = capsys.readouterr().out
    assert "does NOT fit  by 1.5 GB a device" in out
    assert "would fit     --config." in out
    assert "9 GB of 15.5 GB a device (compiled)" in out


@pytest.mark.parametrize("also", [[], ["--search"], ["--layout"]])
def test_without_libtpu_the_error_says_what_to_install(also, monkeypatch, capsys):
    version = target.metadata.version

    def without_libtpu(name):
        if name == "libtpu":
            raise target.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(target.metadata, "version", without_libtpu)
    monkeypatch.setattr(sys, "argv", ["snapvideo", "plan", *OF_V5E, *also])
    with pytest.raises(SystemExit):
        __main__.main()
    error = capsys.readouterr().err
    assert "libtpu is not installed" in error and "[tpu]" in error
    assert "Traceback" not in error
