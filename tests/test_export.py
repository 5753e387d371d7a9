"""A model taken away is the run's: read back, called, and refused if damaged."""

import dataclasses
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
import xla_flags
from exporting import copied
from helpers import assert_one_line, by_name
from stages import SMALL, UPSAMPLER, make_run

from snapvideo_jax.export import bundle, programs, standalone
from snapvideo_jax.export.model_card import model_card
from snapvideo_jax.parallel.sharding import MeshConfig, make_mesh, with_layout
from snapvideo_jax.sampling import loading, options
from snapvideo_jax.sampling.cascade import STREAM
from snapvideo_jax.sampling.generator import Generator, Request, SamplerInputs, as_bytes

ROOT = pathlib.Path(__file__).parent.parent
SMALL_GB = 2e-5
"""Of a weights file: the tiny network's arrays then need several."""


@pytest.fixture(scope="module")
def whole(trained, tmp_path_factory):
    """A bundle in all formats, its weights in several files.

    In a separate process: the type checks of the tests take a symbolic batch for no
    number.
    """
    out = tmp_path_factory.mktemp("whole") / "bundle"
    export_alone(
        *("--workdir", trained, "--out", out, "--format", "bundle,stablehlo,orbax"),
        *("--shard_gb", str(SMALL_GB), "--prompt", "a red cross moving left"),
        *("--prompt", "a green square", "--prompt", ""),
    )
    return out


def export_alone(*options):
    """`snapvideo export` in a separate process."""
    command = [sys.executable, "-m", "snapvideo_jax", "export", *options]
    subprocess.run(command, check=True, cwd=ROOT)


def frames_with_jax_alone(folder, out, *options):
    """What a bundle's run.py makes of its inputs where this package is not there."""
    script = (
        "import runpy, sys; sys.modules['snapvideo_jax'] = None; "  # cannot be imported
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    inputs = folder / bundle.INPUTS
    arguments = [folder / "stablehlo" / "run.py", "--inputs", inputs, "--out", out]
    arguments += options
    command = f"import sys; sys.argv = {list(map(str, arguments))!r}; {script}"
    left_out = ("PYTHONPATH", "XLA_FLAGS")
    env = {name: v for name, v in os.environ.items() if name not in left_out}
    env["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
    subprocess.run([sys.executable, "-c", command], check=True, env=env, cwd=out.parent)
    with np.load(out) as file:
        return file["frames"]


def assert_made(frames, clips):
    """Bytes are those of frames, but for some that were nearly between two."""
    rounded = np.clip(np.rint((frames + 1) * 127.5), 0, 255)
    assert np.abs(rounded - clips).max() <= 1
    assert (rounded == clips).mean() > 0.999


@pytest.mark.slow
def test_the_orbax_part_and_the_files_hold_the_same(whole):
    found = bundle.read(whole)
    for pair in zip(
        by_name(found.params()).items(), by_name(found.orbax_params()).items(),
        strict=True,
    ):  # fmt: skip
        (name, one), (other_name, other) = pair
        assert name == other_name
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_verify_finds_the_outputs_of_the_run(run, whole, trained):
    code, out, err = run("verify", whole, "--workdir", trained)
    assert code == 0, err
    lines = out.splitlines()
    names = [line[:20].strip() for line in lines[:-1]]
    assert names == [
        *("weights", "orbax", "denoiser", "stablehlo denoiser", "stablehlo sampler")
    ]
    assert lines[-1].endswith("within the tolerance of 1e-05.")


@pytest.mark.parametrize(
    "options, part",
    [
        (["--platforms", "cpu,metal"], "--platforms=metal is unknown; use some of tpu"),
        (["--format", "onnx"], "--format=onnx is unknown; use some of bundle, "),
        (["--weights", "nowhere"], "nowhere holds no average; snapvideo ema"),
        (["--steps", "0"], "argument --steps: 0 is too small; use 1 or more."),
        (["--solver", "hune"], "did you mean 'heun'?"),
        (["--cascade_steps", "4"], "--cascade_steps is for the second stage; give --c"),
    ],
)
def test_invalid_options_are_refused(run, trained, tmp_path, options, part):
    out = tmp_path / "out"
    result = run("export", "--workdir", trained, "--out", out, *options)
    assert_one_line(result, part)
    assert not out.exists()


# --- StableHLO -----------------------------------------------------------------------


@pytest.mark.slow
def test_the_sampler_gives_the_clips_of_the_run_with_jax_alone(
    whole, trained, tmp_path
):
    frames = frames_with_jax_alone(whole, tmp_path / "frames.npz")

    experiment, params, _, _ = loading.load(trained)
    mesh = make_mesh(MeshConfig(), 3, jax.devices()[:1])
    prompts = ["a red cross moving left", "a green square", ""]
    request = Request(prompts, range(3), 0, experiment.sheets.guidance, 8.0, (64, 64))
    params = jax.device_put(params, jax.devices()[0])
    assert_made(
        frames, Generator(experiment, experiment.sampler, mesh)(params, request)
    )

    exact = programs.generation(experiment, experiment.sampler)
    given = standalone.read_tensors(whole / bundle.INPUTS)
    inputs = SamplerInputs(
        {name: given[name] for name in programs.TEXT},
        given["numbers"],
        jax.random.key(0),
        experiment.sheets.guidance,
    )
    wanted = jax.jit(with_layout(exact, mesh), compiler_options=xla_flags.FUSED)(
        params, inputs
    )
    np.testing.assert_allclose(frames, wanted, atol=1e-5)


@pytest.mark.slow
def test_the_signature_lists_inputs_and_outputs(whole):
    signature = json.loads((whole / "stablehlo" / "signature.json").read_text())
    assert signature["platforms"] == ["tpu", "cuda", "cpu"]
    assert signature["sampler"] == {"solver": "heun", "steps": 2, "churn": 0.0}
    sampler = signature["programs"]["sampler"]
    assert sampler["inputs"]["text"]["shape"] == ["b", 4, 8]
    assert sampler["inputs"]["seed"] == {
        **{"shape": [], "dtype": "uint32", "meaning": "of the noise"}
    }
    assert sampler["outputs"]["frames"]["shape"] == ["b", 2, 14, 16, 3]


@pytest.mark.slow
def test_a_program_refuses_other_devices_and_missing_inputs(whole, tmp_path):
    copy = copied(whole, tmp_path)
    with pytest.raises(ValueError, match="inputs lack text, "):
        standalone.call(copy, "sampler", {})
    with pytest.raises(ValueError, match=r"has no program 'encoder'; it has \['den"):
        standalone.call(copy, "encoder", {})
    inputs = standalone.read_tensors(copy / bundle.INPUTS)
    with pytest.raises(ValueError, match=r"^numbers is of shape \(2,\); wanted \(3,\)"):
        standalone.call(copy, "sampler", inputs | {"numbers": np.arange(2)})
    path = copy / "stablehlo" / "signature.json"
    path.write_text(path.read_text().replace('"cpu"', '"rocm"'))
    with pytest.raises(ValueError, match="was exported for tpu, cuda, rocm, and this"):
        standalone.call(copy, "sampler", {})


# --- Two stages ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Workdirs of a first stage and of an upsampler."""
    folder = tmp_path_factory.mktemp("runs")
    return make_run(folder / "first", *SMALL), make_run(folder / "second", *UPSAMPLER)


@pytest.fixture(scope="module")
def both(runs, tmp_path_factory):
    """Their bundles with programs; the second stage takes a step more."""
    out = tmp_path_factory.mktemp("both") / "out"
    first, second = runs
    export_alone(
        *("--workdir", first, "--cascade", second, "--out", out),
        *("--format", "bundle,stablehlo", "--steps", "2", "--cascade_steps", "3"),
        *("--prompt", "a red cross", "--prompt", "a green square"),
    )
    return out


@pytest.mark.slow
def test_two_stages_are_two_bundles_and_an_index(run, runs, both, tmp_path):
    index = json.loads((both / "cascade.json").read_text())
    assert index["stages"] == ["base", "upsampler"]
    made = [bundle.read(both / stage).experiment.model for stage in index["stages"]]
    assert [model.is_upsampler for model in made] == [False, True]
    cards = [(both / stage / "README.md").read_text() for stage in index["stages"]]
    assert ["--small SMALL --out" in card for card in cards] == [False, True]
    first, second = runs
    assert_one_line(run("verify", both, "--workdir", first), "bundles of two stages")

    def export(*stages):
        base, upsampler = stages
        given = ("--workdir", base, "--cascade", upsampler, "--out", tmp_path / "new")
        return run("export", *given)

    assert_one_line(export(second, first), f"--cascade={first} is a first stage")
    assert_one_line(
        export(second, second),
        f"--workdir={second} makes 2 frames of 16x14 px from smaller ones",
        f"--cascade={second} enlarges 2 frames of 8x7 px",
    )


@pytest.mark.slow
def test_frames_of_the_first_sampler_are_what_the_second_enlarges(both):
    """One chains to the other: shapes, captions, numbers and seed are the same."""
    told = [
        json.loads((both / stage / "stablehlo" / "signature.json").read_text())
        for stage in ("base", "upsampler")
    ]
    assert [each["sampler"]["steps"] for each in told] == [2, 3]
    made = told[0]["programs"]["sampler"]["outputs"]["frames"]
    small = told[1]["programs"]["sampler"]["inputs"]["small"]
    assert small["shape"] == made["shape"] == ["b", 2, 7, 8, 3]
    assert small["dtype"] == made["dtype"] == "float32"
    one, other = (
        standalone.read_tensors(both / stage / bundle.INPUTS)
        for stage in ("base", "upsampler")
    )
    for name in ("numbers", "seed", "frame_interval"):
        np.testing.assert_array_equal(one[name], other[name])
    assert other["small_noise"] == np.float32(0.1) and "small_noise" not in one
    with pytest.raises(ValueError, match="inputs lack small; --small takes a first"):
        standalone.call(both / "upsampler", "sampler", other)


@pytest.mark.slow
def test_both_samplers_give_the_clips_of_a_cascade_with_jax_alone(runs, both, tmp_path):
    path = tmp_path / "small.npz"
    small = as_bytes(frames_with_jax_alone(both / "base", path))
    frames = frames_with_jax_alone(
        both / "upsampler", tmp_path / "large.npz", "--small", path
    )
    assert frames.shape == (2, 2, 14, 16, 3)

    experiment, params, _, _ = loading.load(runs[1])
    sampler = dataclasses.replace(experiment.sampler, steps=3)
    mesh = make_mesh(MeshConfig(), 2, jax.devices()[:1])
    params = jax.device_put(params, jax.devices()[0])
    told = {"small": np.asarray(small), "small_noise": 0.1, "stream": STREAM}
    prompts, fps = ["a red cross", "a green square"], experiment.sheets.fps
    size = options.resolution_of(experiment)
    request = Request(prompts, range(2), 0, 0.0, fps, size, **told)
    assert_made(frames, Generator(experiment, sampler, mesh)(params, request))

    given = standalone.read_tensors(both / "upsampler" / bundle.INPUTS)
    exact = with_layout(programs.generation(experiment, sampler), mesh)
    inputs = SamplerInputs(
        {name: given[name] for name in programs.TEXT},
        given["numbers"],
        jax.random.key(0),
        given["guidance"],
        **told,
    )
    wanted = jax.jit(exact, compiler_options=xla_flags.FUSED)(params, inputs)
    np.testing.assert_allclose(frames, wanted, atol=1e-5)


@pytest.mark.slow
def test_verify_calls_the_sampler_of_an_upsampler(run, runs, both):
    code, out, err = run("verify", both / "upsampler", "--workdir", runs[1])
    assert code == 0, err
    names = [line[:20].strip() for line in out.splitlines()[:-1]]
    assert names == ["weights", "denoiser", "stablehlo denoiser", "stablehlo sampler"]


# --- The card and the docs -----------------------------------------------------------


@pytest.mark.slow
def test_the_card_lists_data_loss_and_scores(trained, whole, tmp_path):
    about = json.loads((whole / "config.json").read_text())
    found = bundle.read(whole)
    workdir = tmp_path / "my run"
    (workdir / "judged").mkdir(parents=True)
    judged = {"step": 12, "weights": "ema", "shares": {"all": 0.25}}
    (workdir / "judged" / "judged.json").write_text(json.dumps(judged))
    (workdir / "scores").mkdir()
    result = {"metrics": {"fvd": {"value": 512.3}}}
    (workdir / "scores" / "result.json").write_text(json.dumps(result))
    shutil.copy(trained / "metrics.jsonl", workdir)
    data = tmp_path / "data"
    data.mkdir()
    stages = {"data": {"videos": {"records": 1234, "hours": 5.5}}}
    (data / "manifest.json").write_text(json.dumps({"stages": stages}))
    about["config"]["data"]["root"] = str(data)
    card = model_card(found.experiment, workdir, about, 4321)
    assert card.startswith("# my run\n")
    assert "FIT, 4,321 parameters, 2 frames of 16x14 px" in card
    assert "The ema weights after step 12, in float32." in card
    assert "12 of 12 steps of 8 samples (6 videos, 2 images), adam" in card
    assert re.search(r"Training loss at step 12: \d\.\d+", card)
    assert "`data`, by its manifest.json: 1,234 videos (5.5 hours)" in card
    row = "| obeyed: all | 0.25 | step 12, weights ema | judged/judged.json |"
    assert row in card
    assert "| fvd | 512.3 | see the file | scores/result.json |" in card
    assert "a stand-in that distinguishes words without" in card
    assert str(tmp_path) not in card


@pytest.mark.slow
def test_the_card_states_what_is_unknown(whole, tmp_path):
    about = json.loads((whole / "config.json").read_text())
    about["config"]["text"] |= {"name": "t5", "width": 1024}
    experiment = bundle.read(whole).experiment
    model = dataclasses.replace(experiment, seed=7)
    card = model_card(model, tmp_path, about, 1)
    assert "The workdir has none." in card and "seed 7" in card
    assert "without a manifest" in card
    assert "The text encoder is not in this folder" in card
