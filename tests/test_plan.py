"""Plans: the real step, compiled for TPUs that are not here, and what it tells."""

import functools
import json
import re
import sys

import pytest
from helpers import TINY_CONFIG, tiny_config

from snapvideo_jax import __main__, plan
from snapvideo_jax.plan import Question, Target, cache, compile, target

SMALL = Target("v5e:2x2")
OVERRIDES = (
    "model.latents=256",
    "model.latent_width=256",
    "model.latent_head_width=128",
    "model.patch_width=128",
    "model.patch_head_width=64",
    "model.context_width=128",
    "model.dtype=bfloat16",
    "model.remat=layer",
    "optimizer.name=lamb",
    "data.videos_per_batch=24",
    "data.images_per_batch=8",
    "mesh.fsdp=4",
)


def small_config(*overrides):
    """A small FIT of widths that TPUs like, divided over four chips."""
    return tiny_config("nowhere", *OVERRIDES, *overrides)


@functools.cache
def small_plan():
    return plan.answer(Question(small_config(), SMALL))


@functools.cache
def small_sampler():
    """Of 6 clips, which the four devices fill up to 8."""
    config = small_config("mesh.fsdp=1", "sampler.steps=5")
    return plan.answer(Question(config, SMALL, clips=6))


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """An empty folder of plans."""
    monkeypatch.setattr(cache, "CACHE", tmp_path / "plans")
    return tmp_path / "plans"


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


def test_the_program_computes_what_the_model_does_and_what_it_recomputes():
    flops = small_plan()["flops"]
    # Half of the samples are self-conditioned: 3.5 forward passes.
    assert flops["passes"] == 3.5
    forward = sum(flops["forward_per_sample"].values())
    assert flops["model"] == pytest.approx(3.5 * forward * 32 / 4)
    assert 1 < flops["program_over_model"] < 1.5


def test_parameters_travel_as_bfloat16_and_gradients_are_scattered():
    sent = small_plan()["collectives"]
    gathers = [row for row in sent if row["op"] == "all-gather"]
    assert sum(row["bytes"] for row in gathers if row["dtype"] == "bf16") > 1e6
    assert all(row["largest"] < 1e5 for row in gathers if row["dtype"] == "f32")
    reduced = [row for row in sent if row["op"] == "all-reduce"]
    assert all(row["largest"] < 1e6 for row in reduced)


def test_times_and_the_whole_run_agree():
    result = small_plan()
    seconds = result["seconds"]
    assert seconds["step"] == seconds["compute"] + seconds["exposed"]
    assert result["steps_per_day"] == pytest.approx(86400 / seconds["step"])
    assert result["days"] == pytest.approx(12 * seconds["step"] / 86400)
    assert result["chip_hours"] == pytest.approx(12 * seconds["step"] * 4 / 3600)
    assert result["clips_per_second"] == pytest.approx(32 / seconds["step"])
    rate = result["flops"]["model"] / seconds["step"]
    assert result["mfu"]["step"] == pytest.approx(rate / 197e12)


def test_a_sampler_costs_an_evaluation_less_than_two_a_step():
    result = small_sampler()
    assert (result["program"], result["batch"], result["steps"]) == ("sampler", 6, 5)
    assert result["evaluations"] == 2 * 5 - 1
    # Guidance evaluates every clip with and without its caption.
    flops = result["flops"]
    assert flops["passes"] == 2 * 9
    forward = sum(flops["forward_per_sample"].values())
    assert flops["model"] == pytest.approx(18 * forward * 8 / 4)
    assert 1 < flops["program_over_model"] < 1.2


def test_a_sampler_holds_parameters_and_neither_moments_nor_gradients():
    memory = small_sampler()["bytes"]
    assert memory["parameters"] == 4 * small_sampler()["parameters"]
    assert not {"optimizer", "ema"} & set(memory)
    assert memory["parameters"] < memory["peak"] < memory["limit"]


def test_the_time_of_a_clip_is_its_share_of_the_batch():
    result = small_sampler()
    seconds = result["seconds"]
    assert seconds["batch"] == seconds["compute"] + seconds["exposed"]
    assert result["seconds_per_clip"] == pytest.approx(seconds["batch"] / 6)
    assert result["chip_seconds_per_clip"] == 4 * result["seconds_per_clip"]
    assert result["clips_per_second"] == pytest.approx(6 / seconds["batch"])
    text = plan.describe(result)
    assert "sampler       batch 6, 5 steps of heun, guidance 1: 9 evaluations" in text


def test_a_plan_is_plain_data_and_reads_as_text():
    assert json.loads(json.dumps(small_plan())) == small_plan()
    text = plan.describe(small_plan())
    assert "1 x v5e:2x2, 4 devices: fsdp 4" in text
    assert "does NOT fit" not in text and "MFU" in text


def test_a_step_that_does_not_fit_says_by_how_much():
    result = small_plan() | {"fits": False}
    result["bytes"] = small_plan()["bytes"] | {"peak": 17.0e9}
    assert "does NOT fit  by 1.50 GB a device" in plan.describe(result)


def test_the_compilers_refusal_tells_the_memory():
    refusal = RuntimeError("Ran out of memory. Used 33.27G of 30.75G hbm. Exceeded ...")
    assert compile._exhausted(refusal) == 33.27 * 2**30
    refusal = RuntimeError(
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for "
        "HLO temporaries (32.17G) exceeds available HBM (31.25G)."
    )
    assert compile._exhausted(refusal) == 32.17 * 2**30
    with pytest.raises(RuntimeError, match="something else"):
        compile._exhausted(RuntimeError("something else"))


def test_a_second_plan_comes_from_the_cache(kept):
    calls = []

    def ask(question):
        return plan.cached(question, lambda asked: calls.append(asked) or {"n": 1})

    question = Question(small_config(), SMALL)
    assert not cache.is_cached(question)
    assert ask(question) == ask(question) == {"n": 1}
    assert cache.is_cached(question)
    assert len(calls) == 1 and len(list(kept.iterdir())) == 1
    ask(Question(small_config("model.dropout=0.2"), SMALL))
    ask(Question(small_config(), Target("v5e:2x2", slices=2)))
    ask(Question(small_config(), SMALL, clips=8))
    assert len(calls) == 4


@pytest.mark.parametrize(
    "topology, changes, message",
    [
        ("v9:2x2", (), "chip 'v9' is unknown; use CHIP:SHAPE with a chip of"),
        ("A100:8", (), "chip 'A100' is unknown"),
        ("v5e:3x5", (), "--topology=v5e:3x5 does not exist: .*as v5e:16x16"),
        ("v5e:2x2", ("mesh.fsdp=8",), "mesh.fsdp=8 does not divide the 4 devices"),
        (
            "v5e:4x4",
            ("mesh.fsdp=16", "data.videos_per_batch=18", "data.images_per_batch=6"),
            "batch of 24 .*not a multiple of the 16 parts",
        ),
    ],
)
def test_what_cannot_be_planned_is_one_line(
    topology, changes, message, kept, monkeypatch, capsys
):
    overrides = [f"--config.{change}" for change in (*OVERRIDES, *changes)]
    line = ["snapvideo", "plan", "--config", TINY_CONFIG, "--topology", topology]
    monkeypatch.setattr(sys, "argv", [*line, "--config.data.root=nowhere", *overrides])
    with pytest.raises(SystemExit, match="2"):
        __main__.main()
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(message, error), error
    assert error.startswith("snapvideo: error: ")


def test_without_libtpu_the_error_says_what_to_install(monkeypatch):
    def version(name):
        raise target.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(target.metadata, "version", version)
    with pytest.raises(ValueError, match=r"libtpu is not installed.*\[tpu\]"):
        plan.topology_devices(SMALL)
