"""A bundle has the weights of its run, is refused if damaged, and is trained on."""

import json
import re
import shutil

import numpy as np
import pytest
from exporting import copied, exported, snapvideo
from helpers import assert_one_line, read_metrics, restore
from safetensors import safe_open

from snapvideo_jax.export import bundle, standalone

pytestmark = pytest.mark.slow

SMALL_GB = 2e-5
"""Of a weights file: the tiny network's arrays then need several."""


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
    found = standalone.read_weights(out)
    for name, leaf in named(restore(trained), "params").items():
        rounded = leaf.astype(bundle.DTYPES["bfloat16"])
        np.testing.assert_array_equal(found[name], rounded, err_msg=name)


def test_verify_fails_on_weights_of_another_kind(run, plain, trained):
    code, out, _ = run("verify", plain, "--workdir", trained, "--weights", "raw")
    assert code == 1
    assert "ABOVE the tolerance" in out


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


def test_an_export_does_not_overwrite_a_folder(run, trained, plain):
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


def test_train_resumes_an_imported_run(resumed, trained):
    first, *_, last = read_metrics(resumed[0])
    assert (first["step"], last["step"]) == (1, 12)
    before = read_metrics(trained)
    # The first batch is that of the run: weights that have learned do better on it.
    assert first["loss"] < before[0]["loss"]


def test_steps_before_an_import_cannot_be_replayed(run, resumed, tmp_path):
    workdir = shutil.copytree(resumed[0], tmp_path / "run")
    shutil.rmtree(workdir / "checkpoints" / "0", ignore_errors=True)
    result = run("replay", "--workdir", workdir, "--step", 1)
    assert result[0] == 2
    assert "began with imported weights" in result[2]


def test_an_import_needs_an_empty_workdir(run, plain, trained):
    result = run("import", plain, "--workdir", trained)
    assert_one_line(result, "is not an empty folder; use another one.")


def test_train_without_a_config_needs_a_run(run, tmp_path):
    assert_one_line(run("train"), "--config is missing")
    result = run("train", "--workdir", tmp_path)
    assert result[0] == 2 and "holds no run: config.json is missing" in result[2]
