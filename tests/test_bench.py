"""`snapvideo bench`: measurements, and the time of each part of the network."""

import functools
import itertools
import json

import jax
import jax.numpy as jnp
import pytest
from helpers import TINY_CONFIG

from snapvideo_jax.parallel import host_memory
from snapvideo_jax.planning import Target, topology_devices
from snapvideo_jax.planning.bench import (
    Program,
    Times,
    interleaved,
    measure,
    programs,
    traces,
)
from snapvideo_jax.planning.forecast import scopes


@pytest.fixture
def bench(run):
    """Runs the verb in this process; gives its exit code, output and errors."""
    return functools.partial(run, "bench")


# --- Times ---------------------------------------------------------------------------


def test_calls_take_turns_and_warming_up_does_not_count():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    found = interleaved(calls, repeats=3, warm_up=2)
    assert "".join(order) == 5 * "ab"
    assert {name: len(times.seconds) for name, times in found.items()} == {
        "a": 3,
        "b": 3,
    }


def test_the_first_runs_of_a_turn_may_count_for_nothing():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    found = interleaved(calls, repeats=2, warm_up=1, before=1)
    assert "".join(order) == 3 * "aabb"
    assert [len(times.seconds) for times in found.values()] == [2, 2]


def test_the_spread_is_that_of_the_middle_half():
    times = Times((5.0, 1.0, 2.0, 3.0, 100.0))
    assert times.median == 3.0
    assert times.quartiles() == (2.0, 5.0)


# --- What an instruction is ----------------------------------------------------------

BLOCK = "jit(train_step)/transpose(jvp(FIT))/while/body/closed_call/blocks"

OF_UNET = "jit(train_step)/jvp(UNet)"


@pytest.mark.parametrize(
    "op_name, part",
    [
        (f"{BLOCK}/context_read/attention/dot_general", "context read"),
        (f"{BLOCK}._within_groups/read/feed_forward/out/add", "read"),
        (f"{BLOCK}/global_3/attention/reduce_max", "global"),
        (f"{BLOCK}/write/attention/key/dot_general", "write attention"),
        (f"{BLOCK}/write/source_norm/mul", "write attention"),
        (f"{BLOCK}/write/feed_forward_norm/mul", "write feed-forward"),
        (f"{BLOCK}/write/feed_forward/hidden/add", "write feed-forward"),
        ("jit(f)/jvp(FIT)/while/body/dynamic_slice", "scan over blocks"),
        ("jit(f)/jvp(FIT)/FIT._embed/patch_norm/mul", "patches and pixels"),
        ("jit(f)/jvp(FIT)/FIT._pixels/pixels/dot_general", "patches and pixels"),
        ("jit(f)/jvp(FIT)/context/text/dot_general", "context tokens"),
        ("jit(f)/FIT/self_conditioning/out/add", "self-conditioning"),
        ("jit(train_step)/optimizer/mul", "optimizer"),
        (f"{OF_UNET}/down_1_0/conv_out/add", "residual blocks"),
        (f"{OF_UNET}/middle_1/norm/mul", "residual blocks"),
        (f"{OF_UNET}/halve_2/conv/conv_general_dilated", "resampling blocks"),
        (f"{OF_UNET}/up_3_2_space/text_key/dot_general", "spatial attention"),
        (f"{OF_UNET}/middle_0_time/checkpoint/exp", "temporal attention"),
        (f"{OF_UNET}/stem/conv_general_dilated", "patches and pixels"),
        ("jit(f)/jvp(DiT)/while/body/blocks/attention/out/dot", "self-attention"),
        ("jit(f)/DiT/while/body/blocks/text_attention/key/dot", "attention to text"),
        ("jit(f)/DiT/while/body/blocks/feed_forward/hidden/add", "feed-forward"),
        ("jit(f)/DiT/DiT._pixels/modulation/add", "patches and pixels"),
        ("jit(train_step)/jvp()/random_bits", scopes.OTHER),
        ("", scopes.UNNAMED),
    ],
)
def test_an_instruction_belongs_to_the_part_that_its_scopes_name(op_name, part):
    assert scopes.part_of(op_name) == part


def test_passes_of_a_step_are_distinguished():
    passes = [
        scopes.pass_of(f"jit(train_step)/{scope}/mul")
        for scope in ("jvp(first_pass)/FIT", "jvp(FIT)", "transpose(jvp(FIT))", "x")
    ]
    assert scopes.pass_of("jit(train_step)/jvp(UNet)/mul") == "forward"
    assert passes == ["self-conditioning", "forward", "backward", passes[-1]]
    assert len(set(passes)) == 4


@pytest.mark.parametrize(
    "opcode, op_name, inside, rest, kind",
    [
        ("dot", "a/dot_general", (), "", traces.MATRIX),
        ("fusion", "a/add", ("parameter", "convolution", "add"), "", traces.MATRIX),
        ("custom-call", "", (), 'custom_call_target="__cublas$gemm"', traces.MATRIX),
        ("custom-call", "", (), 'custom_call_target="tpu_custom_call"', traces.KERNEL),
        ("all-gather-start", "", (), "", traces.COLLECTIVE),
        ("fusion", "a/mul", ("parameter", "copy", "transpose"), "", traces.MEMORY),
        ("fusion", "a/random_bits", ("parameter", "xor"), "", traces.RANDOM),
        ("fusion", "a/mul", ("parameter", "multiply"), "", traces.REST),
    ],
)
def test_an_instruction_is_of_the_kind_of_what_it_computes(
    opcode, op_name, inside, rest, kind
):
    assert traces.category(opcode, op_name, inside, rest) == kind


def test_a_trace_of_another_program_has_no_table(tmp_path):
    topology_devices(Target("v5e:2x2"))  # loads libtpu, which adds an empty plane
    ran = jax.jit(lambda x: jnp.sin(x).sum()).lower(jnp.ones(100)).compile()
    with jax.profiler.trace(str(tmp_path)):
        for _ in range(20):  # on a busy machine a trace may miss a run this short
            jax.block_until_ready(ran(jnp.ones(100)))
    assert traces.tables(tmp_path, ran.as_text(), 1)["milliseconds_by_part"]
    other = "HloModule m, is_scheduled=true\n\nENTRY %main () -> f32[] {\n"
    other += "  ROOT %other = f32[] constant(0)\n}\n"
    with pytest.raises(ValueError, match="names no instruction of the program"):
        traces.tables(tmp_path, other, 1)
    with pytest.raises(ValueError, match="wrote no trace there"):
        traces.tables(tmp_path / "empty", ran.as_text(), 1)


# --- The verb ------------------------------------------------------------------------


@pytest.mark.slow
def test_a_train_step_is_measured_and_taken_apart(bench, tmp_path):
    code, out, err = bench(
        *("--config", TINY_CONFIG, "--steps", "3", "--json"),
        *("--profile", str(tmp_path), "--config.run.peak_tflops=2"),
    )
    assert code == 0, err
    result = json.loads(out)
    assert result["devices"] == jax.device_count() and result["batch"] == 8
    row = result["programs"]["train step"]
    seconds = row["seconds"]
    assert 0 < seconds["lower_quartile"] <= seconds["median"]
    assert seconds["median"] <= seconds["upper_quartile"]
    assert row["clips_per_second"] * seconds["median"] == pytest.approx(8)
    rate = row["model_tflops"] / seconds["median"]
    assert row["model_tflops_per_second"] == pytest.approx(rate)
    assert row["mfu"] == pytest.approx(rate / (2 * jax.device_count()))
    assert row["compile_seconds"] > 0 and row["bytes"]["arguments"] > 0
    parts = row["profile"]["milliseconds_by_part"]
    assert {"read", "global", "write attention", "optimizer"} <= set(parts)
    assert {"self-conditioning", "forward", "backward"} <= set(
        row["profile"]["milliseconds_by_pass"]
    )
    for table in row["profile"].values():
        assert sum(table.values()) == pytest.approx(sum(parts.values()))


def test_the_forward_pass_and_the_sampler_are_measured_for_people(bench):
    code, out, err = bench(
        "--config", TINY_CONFIG, "--steps", "2", "--forward", "--sampler"
    )
    assert code == 0, err
    lines = out.splitlines()
    named = [line for line in lines if line.startswith(("forward pass ", "sampler "))]
    assert len(named) == 2 and all("median of 2" in line for line in named)
    assert sum("s each, 8 at once" in line for line in lines) == 2
    assert any("give it as --config.run.peak_tflops" in line for line in lines)


def test_the_forecast_stands_beside_what_was_measured(bench, monkeypatch):
    """A run takes 2 seconds by a clock that advances by 2 at each reading."""
    fake = Program(lambda: 0, None, compile_seconds=1.0, clips=8, flops=4e12)
    monkeypatch.setitem(measure.PROGRAMS, "train step", lambda *_: fake)
    monkeypatch.setattr(measure.time, "perf_counter", itertools.count(0, 2).__next__)
    planned = {
        "topology": "v5e:2x2", "devices": 4, "fits": True, "seconds": {"step": 0.5},
        "mfu": {"step": 0.25}, "bytes": {"peak": 3e9},
    }  # fmt: skip
    asked = []
    monkeypatch.setattr(measure, "cached_plan", lambda q: asked.append(q) or planned)
    code, out, _ = bench("--config", TINY_CONFIG, "--plan", "v5e:2x2")
    assert code == 0 and asked[0].target == Target("v5e:2x2")
    assert "2 s, median of 20 (quartiles 2 to 2)" in out
    assert "4 a second, 0.25 s each, 8 at once" in out
    assert "4 TFLOP, 2 TFLOP/s" in out
    assert "v5e:2x2, 4 devices: 0.5 s, MFU 0.250, peak 3 GB a device" in out
    assert "measured / forecast = 4, on 8 devices here" in out
    planned["fits"] = False
    assert (
        "v5e:2x2: the step does not fit there"
        in bench("--config", TINY_CONFIG, "--plan", "v5e:2x2", "--steps", "1")[1]
    )


@pytest.mark.parametrize(
    "arguments, line",
    [
        (["--steps", "0"], "argument --steps: 0 is too small; use 1 or more."),
        (["--profile", TINY_CONFIG], "is a file; name a folder."),
        (["--plan", "v9:2x2"], "chip 'v9' is unknown"),
        (["--plan", "v5e:2x2", "--forward"], "--plan forecasts the train step"),
        (["--config.model.latents=7"], "model.latents=7 cannot be divided"),
        (["--config.data.videos_per_batch=5"], "is not a multiple of"),
        (["--wrong"], "Unknown command line flag 'wrong'"),
    ],
)
def test_a_wrong_wish_ends_the_bench_in_one_line(bench, monkeypatch, arguments, line):
    monkeypatch.setitem(measure.PROGRAMS, "train step", None)  # nothing is compiled
    code, out, err = bench("--config", TINY_CONFIG, *arguments)
    assert (code, out) == (2, "")
    assert line in err and len(err.splitlines()) == 1


def test_a_batch_that_does_not_fit_says_what_to_change(bench, monkeypatch):
    def full(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory\nat ...")

    monkeypatch.setitem(measure.PROGRAMS, "train step", full)
    code, out, err = bench("--config", TINY_CONFIG)
    assert (code, out) == (2, "")
    assert "batch of 8 does not fit" in err and "videos_per_batch" in err


def test_a_program_that_would_be_killed_for_its_memory_is_not_run(bench, monkeypatch):
    """A CPU's memory runs out with no error."""
    free = host_memory.available()
    assert free is None or free > 1e6
    product = jax.jit(lambda x: jnp.sin(x @ x) @ x)
    square = jnp.ones((256, 256))
    programs._compile(product, square)
    monkeypatch.setattr(host_memory, "available", lambda: None)
    programs._compile(product, square)
    monkeypatch.setattr(host_memory, "available", lambda: 1000)
    with pytest.raises(jax.errors.JaxRuntimeError, match="MB needed, 0.001 MB free"):
        programs._compile(product, square)
    code, out, err = bench("--config", TINY_CONFIG)
    assert (code, out) == (2, "")
    assert (
        "does not fit" in err and "0.001 MB free" in err and "videos_per_batch" in err
    )


def test_other_errors_of_a_device_are_not_taken_for_a_lack_of_memory(
    bench, monkeypatch
):
    def broken(*_):
        raise jax.errors.JaxRuntimeError("INTERNAL: a wire is loose")

    monkeypatch.setitem(measure.PROGRAMS, "train step", broken)
    with pytest.raises(jax.errors.JaxRuntimeError, match="a wire is loose"):
        bench("--config", TINY_CONFIG)
