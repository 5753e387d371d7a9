"""A model taken away is the run's: read back, called, and refused if damaged."""

import dataclasses
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from exporting import copied
from helpers import assert_one_line, by_name, tiny_config

from snapvideo_jax import config as configs
from snapvideo_jax import sample
from snapvideo_jax.checkpoint import Checkpoints
from snapvideo_jax.export import alone, bundle, programs
from snapvideo_jax.export.model_card import model_card
from snapvideo_jax.generate import Generator, Request
from snapvideo_jax.sharding import MeshConfig, laid_out, make_mesh
from snapvideo_jax.states import abstract_state

ROOT = pathlib.Path(__file__).parent.parent
SMALL_GB = 2e-5
"""Of a weights file: the tiny network's arrays then need several."""


@pytest.fixture(scope="module")
def whole(trained, tmp_path_factory):
    """A bundle in all formats, its weights in several files.

    In a process of its own: the type checks of the tests take a symbolic batch for no
    number.
    """
    out = tmp_path_factory.mktemp("whole") / "bundle"
    subprocess.run(
        [
            *(sys.executable, "-m", "snapvideo_jax", "export", "--workdir", trained),
            *("--out", out, "--format", "bundle,stablehlo,orbax"),
            *("--shard_gb", str(SMALL_GB), "--prompt", "a red cross moving left"),
            *("--prompt", "a green square", "--prompt", ""),
        ],
        check=True,
        cwd=ROOT,
    )
    return out


def test_the_orbax_part_and_the_files_hold_the_same(whole):
    found = bundle.read(whole)
    for pair in zip(
        by_name(found.params()).items(), by_name(found.orbax_params()).items(),
        strict=True,
    ):  # fmt: skip
        (name, one), (other_name, other) = pair
        assert name == other_name
        np.testing.assert_array_equal(one, other)


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
        (["--steps", "0"], "--steps=0 is too small"),
        (["--solver", "hune"], "did you mean 'heun'?"),
    ],
)
def test_an_export_that_cannot_be_is_refused(run, trained, tmp_path, options, part):
    out = tmp_path / "out"
    result = run("export", "--workdir", trained, "--out", out, *options)
    assert_one_line(result, part)
    assert not out.exists()


# --- StableHLO -----------------------------------------------------------------------


def test_the_sampler_gives_the_clips_of_the_run_with_jax_alone(
    whole, trained, tmp_path
):
    out = tmp_path / "frames.npz"
    script = (
        "import runpy, sys; sys.modules['snapvideo_jax'] = None; "  # cannot be imported
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    inputs = whole / bundle.INPUTS
    arguments = [whole / "stablehlo" / "run.py", "--inputs", inputs, "--out", out]
    command = f"import sys; sys.argv = {list(map(str, arguments))!r}; {script}"
    env = {name: v for name, v in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([sys.executable, "-c", command], check=True, env=env, cwd=tmp_path)
    with np.load(out) as file:
        frames = file["frames"]

    experiment, params, _, _ = sample.load(trained)
    mesh = make_mesh(MeshConfig(), 3, jax.devices()[:1])
    prompts = ["a red cross moving left", "a green square", ""]
    request = Request(prompts, range(3), 0, experiment.sheets.guidance, 8.0, (64, 64))
    params = jax.device_put(params, jax.devices()[0])
    made = Generator(experiment, experiment.sampler, mesh)(params, request)
    rounded = np.clip(np.rint((frames + 1) * 127.5), 0, 255)
    assert np.abs(rounded - made).max() <= 1  # where it was nearly between two
    assert (rounded == made).mean() > 0.999

    exact = programs.generation(experiment, experiment.sampler)
    given = alone.read_tensors(inputs)
    wanted = jax.jit(laid_out(exact, mesh), static_argnames="guided")(
        params,
        {name: given[name] for name in programs.TEXT},
        given["numbers"],
        jax.random.key(0),
        experiment.sheets.guidance,
        guided=True,
    )
    np.testing.assert_allclose(frames, wanted, atol=1e-5)


def test_the_signature_tells_what_goes_in_and_comes_out(whole):
    signature = json.loads((whole / "stablehlo" / "signature.json").read_text())
    assert signature["platforms"] == ["tpu", "cuda", "cpu"]
    assert signature["sampler"] == {"solver": "heun", "steps": 2, "churn": 0.0}
    sampler = signature["programs"]["sampler"]
    assert sampler["inputs"]["text"]["shape"] == ["b", 4, 8]
    assert sampler["inputs"]["seed"] == {
        **{"shape": [], "dtype": "uint32", "meaning": "of the noise"}
    }
    assert sampler["outputs"]["frames"]["shape"] == ["b", 2, 14, 16, 3]


def test_a_program_refuses_other_devices_and_missing_inputs(whole, tmp_path):
    copy = copied(whole, tmp_path)
    with pytest.raises(ValueError, match="inputs lack text, "):
        alone.call(copy, "sampler", {})
    with pytest.raises(ValueError, match=r"has no program 'encoder'; it has \['den"):
        alone.call(copy, "encoder", {})
    path = copy / "stablehlo" / "signature.json"
    path.write_text(path.read_text().replace('"cpu"', '"rocm"'))
    with pytest.raises(ValueError, match="was exported for tpu, cuda, rocm, and this"):
        alone.call(copy, "sampler", {})


def test_an_upsampler_has_a_denoiser_that_is_told_the_small_clip():
    experiment = tiny.experiment("fit_upsampler.py")
    made = programs.programs_of(experiment, experiment.sampler)
    assert list(made) == ["denoiser"]
    assert made["denoiser"].inputs["low_resolution"][0] == ("b", 16, 288, 512, 3)


# --- Two stages ----------------------------------------------------------------------


def run_of_zeros(workdir, *overrides):
    """A workdir with a checkpoint, without training."""
    config = tiny_config("nowhere", *overrides)
    shapes = nn.unbox(abstract_state(configs.build(config)))
    state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    checkpoints = Checkpoints(workdir, every_steps=1)
    checkpoints.save(1, state, {}, force=True)
    checkpoints.close()
    (workdir / "config.json").write_text(configs.to_json(config))
    return workdir


def test_two_stages_are_two_bundles_and_an_index(run, tmp_path):
    small = ["data.height=6", "data.width=8", "model.group=(1, 1)"]
    base = run_of_zeros(tmp_path / "base", *small)
    large = ["data.height=12", "model.pad_height=(2, 2)", "model.in_channels=6"]
    upsampler = run_of_zeros(
        tmp_path / "upsampler", *large, "training.low_resolution=(6, 8)"
    )
    out = tmp_path / "both"
    result = run("export", "--workdir", base, "--cascade", upsampler, "--out", out)
    assert result[0] == 0, result
    index = json.loads((out / "cascade.json").read_text())
    assert index["stages"] == ["base", "upsampler"]
    made = [bundle.read(out / stage).experiment.model for stage in index["stages"]]
    assert [model.is_upsampler for model in made] == [False, True]
    assert_one_line(run("verify", out, "--workdir", base), "bundles of two stages")
    result = run("verify", out / "upsampler", "--workdir", upsampler)
    assert result[0] == 0, result

    turned = ["--workdir", upsampler, "--cascade", base, "--out", tmp_path / "new"]
    assert_one_line(run("export", *turned), "and --workdir=", "makes (2, 12, 16)")


# --- The card and the docs -----------------------------------------------------------


def test_the_card_tells_what_lies_in_the_workdir(trained, whole, tmp_path):
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
    assert "a stand-in that knows words and no meaning" in card
    assert str(tmp_path) not in card


def test_the_card_says_where_nothing_is_known(whole, tmp_path):
    about = json.loads((whole / "config.json").read_text())
    about["config"]["text"] |= {"name": "t5", "width": 1024}
    experiment = bundle.read(whole).experiment
    model = dataclasses.replace(experiment, seed=7)
    card = model_card(model, tmp_path, about, 1)
    assert "None lie in the workdir." in card and "seed 7" in card
    assert "without a manifest" in card
    assert "The text encoder is not in this folder" in card
