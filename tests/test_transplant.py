"""`run.init_from`: what an upsampler takes over of a first stage, and what not."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from helpers import TINY_CONFIG, by_name, tiny_config
from stages import SMALL, UPSAMPLER, make_run

from snapvideo_jax import config as configs
from snapvideo_jax.parallel.layout_report import checked_shardings
from snapvideo_jax.parallel.sharding import MeshConfig, make_mesh
from snapvideo_jax.state import abstract_state
from snapvideo_jax.training.checkpoints import warm_start

# Both stages have captions of the same length here.
UP = tuple(each for each in UPSAMPLER if not each.startswith("text"))
RESIZED = "['patch_position']"


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """The workdir of a first stage."""
    return make_run(tmp_path_factory.mktemp("first") / "run", *SMALL)


@pytest.fixture(scope="module")
def begun(first, tmp_path_factory):
    """An upsampler that begins from it: its experiment, state, and report."""
    workdir = tmp_path_factory.mktemp("second")
    config = tiny_config("nowhere", *UP, f"run.init_from={first}@1")
    experiment = configs.build(config)
    mesh = make_mesh(MeshConfig(), batch=8)
    places = checked_shardings(abstract_state(experiment), mesh)
    state = warm_start.initial_state(experiment, mesh, places, workdir)
    report = json.loads((workdir / "init_from.json").read_text())
    return experiment, state, report


def source_params(first):
    """The averaged weights of the first stage."""
    experiment, _, _ = warm_start.open_source(str(first))
    mesh = make_mesh(MeshConfig(), batch=8)
    return warm_start.restore_params(first, experiment, mesh, True)[0]


def test_every_array_is_copied_widened_resized_or_new(first, begun):
    _, state, report = begun
    theirs, ours = by_name(source_params(first)), by_name(state.params)
    assert report["widened"] == ["patch_embed/kernel"]
    assert report["resized"] == ["patch_position"]
    assert report["step"] == 1 and len(report["new"]) == 4
    assert all("low_resolution_noise" in name for name in report["new"])
    found = sum(len(report[kind]) for kind in ("copied", "widened", "resized", "new"))
    assert found == len(ours)
    same = [
        name
        for name in theirs
        if theirs[name].shape == ours[name].shape and (theirs[name] == ours[name]).all()
    ]
    assert len(same) == len(report["copied"]) == len(theirs) - 2


def test_a_dry_run_reports_the_same(first, begun, run, shapes_root):
    options = [f"--config.{each}" for each in UP]
    code, printed, err = run(
        *("train", "--dry-run", "--json", "--config", TINY_CONFIG, *options),
        *(f"--config.data.root={shapes_root}", f"--config.run.init_from={first}"),
    )
    assert code == 0, err
    found = json.loads(printed)["init_from"]
    assert found == {kind: begun[2][kind] for kind in found}
    assert set(found) == {"copied", "widened", "resized", "new"}


def test_averages_begin_with_the_same_weights(begun):
    _, state, _ = begun
    jax.tree.map(np.testing.assert_array_equal, state.params, state.ema)
    assert int(state.step) == 0


def test_new_channels_have_no_effect(begun):
    """Whatever the small clip is, the network gives the same."""
    experiment, state, _ = begun
    model = experiment.model
    text = experiment.text
    about = tiny.context(
        text=tiny.normal(2, 2, text.tokens, text.width),
        text_mask=jnp.ones((2, text.tokens), bool),
        low_resolution_noise=jnp.full(2, 0.1),
    )
    params = jax.device_get(state.params)
    seen = [
        tiny.run(model, params, about=about.replace(low_resolution=low))[0]
        for low in (tiny.clip(model, seed=4), tiny.clip(model, seed=5))
    ]
    np.testing.assert_array_equal(*seen)
    assert np.abs(seen[0]).max() > 0.01


def test_positions_follow_the_picture():
    """A table linear in place stays so, whatever padding, patches and groups."""
    source = tiny.fit(height=6, pad_height=(1, 1), width=8)
    target = tiny.fit(height=24, pad_height=(4, 4), width=32, group=(4, 2))

    def table(network):
        row = (np.arange(network.padded_height // 2) + 0.5) * 2 - network.pad_height[0]
        column = (np.arange(network.columns) + 0.5) * 2
        grid = np.stack(
            np.broadcast_arrays(
                np.arange(network.frames)[:, None, None],
                (row / network.height)[None, :, None],
                (column / network.width)[None, None, :],
            ),
            axis=-1,
        )
        patches = warm_start.patchify(jnp.asarray(grid[None]), (1, 1, 1), network.group)
        return jnp.asarray(patches, jnp.float32).reshape(-1, 3)

    wanted, found = (
        table(target),
        np.asarray(warm_start.resize_positions(table(source), source, target)),
    )
    low, high = table(source).min(axis=0), table(source).max(axis=0)
    np.testing.assert_allclose(found, np.clip(wanted, low, high), atol=1e-6)
    same = warm_start.resize_positions(table(source), source, source)
    np.testing.assert_allclose(same, table(source), atol=1e-6)


@pytest.mark.parametrize(
    "changes, parts",
    [
        (["model.latents=16"], ["latents is (8, 16), and here (16, 16)"]),
        (["model.blocks=1"], ["does not fit", "and here (1,", "more"]),
        (["model.patch_width=16"], ["is (2, 8), and here (2, 16)", "same widths"]),
        (["text.width=4"], ["context/text/kernel is (8, 8), and here (4, 8)"]),
    ],
)
def test_a_run_that_does_not_fit_is_refused(first, nothing_compiles, changes, parts):
    config = tiny_config("nowhere", *UP, f"run.init_from={first}", *changes)
    experiment = configs.build(config)
    mesh = make_mesh(MeshConfig(), batch=8)
    with pytest.raises(ValueError, match="run.init_from=") as error:
        warm_start.initial_state(experiment, mesh, None)
    for part in parts:
        assert part in str(error.value)


def test_a_run_that_is_not_there_or_of_another_kind_is_refused(
    first, nothing_compiles, tmp_path
):
    with pytest.raises(ValueError, match="holds no run"):
        warm_start.open_source(str(tmp_path))
    other = configs.build(tiny_config("nowhere", f"run.init_from={first}", model="dit"))
    with pytest.raises(ValueError, match="is a FIT and this network a DiT"):
        warm_start.check_source(other, warm_start.open_source(str(first))[0])


def test_training_begins_there_and_its_first_loss_is_of_those_weights(
    begun, first, shapes_root, tmp_path
):
    """The verb's own loop: one step, and its report."""
    from snapvideo_jax.train import train

    few = ("optimizer.steps=1", "optimizer.warmup_steps=0")
    config = tiny_config(shapes_root, *UP, f"run.init_from={first}", *few)
    train(config, tmp_path)
    report = json.loads((tmp_path / "init_from.json").read_text())
    assert report["copied"] == begun[2]["copied"]
    # One step of Adam with warm-up moves a weight by at most its rate.
    experiment = configs.build(config)
    mesh = make_mesh(MeshConfig(), batch=8)
    trained, _ = warm_start.restore_params(tmp_path, experiment, mesh, False)
    before, after = by_name(begun[1].params), by_name(nn.unbox(trained))
    moved = max(np.abs(before[name] - after[name]).max() for name in before)
    assert 0 < moved <= 0.011
