"""A model taken away is the run's: read back, called, and refused if damaged."""

import dataclasses
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from exporting import copied, exported, snapvideo
from helpers import assert_one_line, by_name, read_metrics, restore, tiny_config
from safetensors import safe_open

from snapvideo_jax import __main__ as cli
from snapvideo_jax import config as configs
from snapvideo_jax import sample
from snapvideo_jax.checkpoint import Checkpoints
from snapvideo_jax.export import alone, bundle, programs
from snapvideo_jax.export.model_card import model_card
from snapvideo_jax.sharding import MeshConfig, laid_out, make_mesh

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


@pytest.fixture(scope="module")
def plain(trained, tmp_path_factory):
    """The weights alone, in several files."""
    out = tmp_path_factory.mktemp("plain") / "bundle"
    return exported(trained, out, "--shard_gb", SMALL_GB)


def stored(folder):
    """All arrays of a bundle, as the safetensors library reads them."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        if path.name.startswith("model"):
            with safe_open(path, "np") as file:
                found |= {name: file.get_tensor(name) for name in file.keys()}
    return found


def named(state, part):
    """The arrays of a part of a restored state, by the names of a bundle."""
    found = {}
    for path, leaf in state.items():
        if path.startswith(f".{part}['"):
            found["/".join(re.findall(r"\['(.+?)'\]", path))] = leaf
    return found


# --- The bundle ----------------------------------------------------------------------


def test_the_weights_are_the_averaged_ones_of_the_run(trained, plain):
    wanted, found = named(restore(trained), "ema"), stored(plain)
    assert found.keys() == wanted.keys()
    for name, leaf in wanted.items():
        np.testing.assert_array_equal(found[name], leaf, err_msg=name)


def test_large_weights_lie_in_several_files_with_an_index(plain):
    index = json.loads((plain / "model.safetensors.index.json").read_text())
    files = sorted(path.name for path in plain.glob("model-*.safetensors"))
    assert len(files) > 2 and files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert sorted(set(index["weight_map"].values())) == files
    for name, file in index["weight_map"].items():
        with safe_open(plain / file, "np") as opened:
            assert name in opened.keys()
    sizes = [(plain / file).stat().st_size for file in files]
    assert index["metadata"]["total_size"] < sum(sizes)
    largest = max(leaf.nbytes for leaf in stored(plain).values())
    assert max(sizes) < max(SMALL_GB * 1e9, largest) + 4096  # a header


def test_raw_weights_in_bfloat16_are_the_rounded_ones(trained, tmp_path):
    out = exported(trained, tmp_path / "raw", "--weights", "raw", "--dtype", "bfloat16")
    assert not (out / "model.safetensors.index.json").exists()
    found = alone.read_weights(out)
    for name, leaf in named(restore(trained), "params").items():
        rounded = leaf.astype(bundle.DTYPES["bfloat16"])
        np.testing.assert_array_equal(found[name], rounded, err_msg=name)


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


def test_verify_fails_on_weights_of_another_kind(run, plain, trained):
    code, out, _ = run("verify", plain, "--workdir", trained, "--weights", "raw")
    assert code == 1
    assert "ABOVE the tolerance" in out


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
    request = sample.Request(
        prompts, range(3), 0, experiment.sheets.guidance, 8.0, (64, 64)
    )
    params = jax.device_put(params, jax.devices()[0])
    made = sample.Generator(experiment, experiment.sampler, mesh)(params, request)
    rounded = np.clip(np.rint((frames + 1) * 127.5), 0, 255)
    assert np.abs(rounded - made).max() <= 1  # where it was nearly between two
    assert (rounded == made).mean() > 0.999

    exact = sample.generation_of(
        experiment, experiment.sampler, finish=lambda clips: clips.clip(-1, 1)
    )
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
    shapes = nn.unbox(sample.abstract_state(configs.build(config)))
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
    exported(base, out, "--cascade", upsampler)
    index = json.loads((out / "cascade.json").read_text())
    assert index["stages"] == ["base", "upsampler"]
    made = [bundle.read(out / stage).experiment.model for stage in index["stages"]]
    assert [model.is_upsampler for model in made] == [False, True]
    assert_one_line(run("verify", out, "--workdir", base), "bundles of two stages")
    result = run("verify", out / "upsampler", "--workdir", upsampler)
    assert result[0] == 0, result

    turned = ["--workdir", upsampler, "--cascade", base, "--out", tmp_path / "new"]
    assert_one_line(run("export", *turned), "and --workdir=", "makes (2, 12, 16)")


# --- Refusals ------------------------------------------------------------------------


def cut_short(folder):
    path = sorted(folder.glob("model-*.safetensors"))[0]
    path.write_bytes(path.read_bytes()[:-1])


def lose_a_shard(folder):
    sorted(folder.glob("model-*.safetensors"))[1].unlink()


def change_a_bit(folder):
    path = sorted(folder.glob("model-*.safetensors"))[0]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def edited(**changes):
    def edit(folder):
        path = folder / "config.json"
        about = json.loads(path.read_text())
        for name, value in changes.items():
            *parents, last = name.split("__")
            part = about
            for parent in parents:
                part = part[parent]
            part[last] = value
        path.write_text(json.dumps(about))

    return edit


def cut_the_config(folder):
    path = folder / "config.json"
    path.write_text(path.read_text()[:-10])


REFUSED = {
    "truncated": (cut_short, ["is not whole", "model-00001", "bytes in place of"]),
    "missing shard": (lose_a_shard, ["model-00002", "is missing"]),
    "changed": (change_a_bit, ["is damaged: the SHA-256 of model-00001"]),
    "version": (
        edited(format_version=2, library_version="9.9"),
        ["a bundle of version 2, made by snapvideo_jax 9.9", "reads version 1"],
    ),
    "no bundle": (edited(format="other"), ["config.json is not of a bundle"]),
    "no JSON": (cut_the_config, ["config.json is damaged"]),
    "no config": (lambda f: (f / "config.json").unlink(), ["it has no config.json"]),
    "other model": (
        edited(config__model__latent_width=32),
        ["its config is of another model than its weights", "wanted"],
    ),
    "unknown field": (
        edited(config__model__latent_wdth=32),
        ["its config cannot be used", "did you mean 'latent_width'?"],
    ),
    "outside": (
        edited(files={"../secret": {"bytes": 1, "sha256": ""}}),
        ["lists '../secret', outside of the bundle"],
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_bundle_that_is_not_as_written_is_refused(
    run, plain, trained, tmp_path, name
):
    damage, parts = REFUSED[name]
    copy = copied(plain, tmp_path)
    damage(copy)
    assert_one_line(run("verify", copy, "--workdir", trained), *parts)
    result = run("import", copy, "--workdir", tmp_path / "new")
    assert_one_line(result, *parts)
    assert not (tmp_path / "new").exists()


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


def test_an_export_writes_over_nothing(run, trained, plain):
    result = run("export", "--workdir", trained, "--out", plain)
    assert_one_line(result, "is not an empty folder; use another one.")


def test_a_run_of_another_model_is_not_compared(run, plain, trained, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    text = (trained / "config.json").read_text()
    (other / "config.json").write_text(
        text.replace('"sigma_in": 4.0', '"sigma_in": 2.0')
    )
    result = run("verify", plain, "--workdir", other)
    assert_one_line(result, "diffusion.sigma_in is 4.0 (in the run 2.0)")


# --- Import --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def resumed(plain, tmp_path_factory):
    """A run that began with the bundle, trained to its end; its state at step 0."""
    workdir = tmp_path_factory.mktemp("resumed") / "run"
    snapvideo("import", plain, "--workdir", workdir, "--config.sheets.every_steps=0")
    begun = restore(workdir)
    snapvideo("train", "--workdir", workdir)
    return workdir, begun


def test_an_imported_run_begins_with_the_bundle(resumed, plain):
    begun, wanted = resumed[1], stored(plain)
    assert begun[".step"] == 0
    for part in ("params", "ema"):
        found = named(begun, part)
        assert found.keys() == wanted.keys()
        for name, leaf in wanted.items():
            np.testing.assert_array_equal(found[name], leaf, err_msg=name)


def test_train_goes_on_with_an_imported_run(resumed, trained):
    first, *_, last = read_metrics(resumed[0])
    assert (first["step"], last["step"]) == (1, 12)
    before = read_metrics(trained)
    # The first batch is that of the run: weights that have learned do better on it.
    assert first["loss"] < before[0]["loss"]


def test_what_came_before_an_import_is_not_made_up(run, resumed, tmp_path):
    workdir = shutil.copytree(resumed[0], tmp_path / "run")
    shutil.rmtree(workdir / "checkpoints" / "0", ignore_errors=True)
    result = run("replay", "--workdir", workdir, "--step", 1)
    assert result[0] == 2
    assert "was begun with weights that were imported" in result[2]


def test_a_workdir_that_has_something_is_not_imported_to(run, plain, trained):
    result = run("import", plain, "--workdir", trained)
    assert_one_line(result, "is not an empty folder; use another one.")


def test_train_without_a_config_needs_a_run(run, tmp_path):
    assert_one_line(run("train"), "--config is missing")
    result = run("train", "--workdir", tmp_path)
    assert result[0] == 2 and "holds no run: config.json is missing" in result[2]


# --- The card and the docs -----------------------------------------------------------


def test_the_card_tells_what_lies_in_the_workdir(trained, plain, tmp_path):
    about = json.loads((plain / "config.json").read_text())
    found = bundle.read(plain)
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


def test_the_card_says_where_nothing_is_known(plain, tmp_path):
    about = json.loads((plain / "config.json").read_text())
    about["config"]["text"] |= {"name": "t5", "width": 1024}
    experiment = bundle.read(plain).experiment
    model = dataclasses.replace(experiment, seed=7)
    card = model_card(model, tmp_path, about, 1)
    assert "None lie in the workdir." in card and "seed 7" in card
    assert "without a manifest" in card
    assert "The text encoder is not in this folder" in card


def commands():
    blocks = re.findall(
        r"```bash\n(.*?)```", (ROOT / "docs" / "export.md").read_text(), re.DOTALL
    )
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line]


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_the_docs_have_commands_that_are_understood(command):
    if command[0] == "python":
        name = pathlib.Path(command[1]).name
        assert name == "run.py" or (ROOT / command[1]).is_file()
        return
    assert command[0] in ("snapvideo", "pip"), command
    if command[0] == "snapvideo":
        arguments, rest = cli._parser().parse_known_args(command[1:])
        assert not rest or arguments.verb in cli.TAKE_OVERRIDES
