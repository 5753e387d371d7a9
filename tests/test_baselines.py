"""U-Net and DiT go through the same trainer, mesh, plan and benchmark as FIT."""

import functools
import json
import pathlib
import shutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import by_name, golden_plan, kept_steps, read_metrics, restore, tiny_config

from snapvideo_jax import config as configs
from snapvideo_jax.parallel.sharding import (
    MeshConfig,
    batch_sharding,
    make_mesh,
    put_batch,
    state_shardings,
)
from snapvideo_jax.planning import Target
from snapvideo_jax.planning.bench import models, networks
from snapvideo_jax.planning.estimate import Choice, Estimator
from snapvideo_jax.planning.programs import abstract_batch, sampler
from snapvideo_jax.planning.search import candidates
from snapvideo_jax.state import abstract_state, fresh_state
from snapvideo_jax.step import jit_train_step
from snapvideo_jax.train import train
from snapvideo_jax.training.dry_run import dry_run

MODELS = ("unet", "dit")
MESHES = {
    "data": MeshConfig(data=8),
    "fsdp and tensor": MeshConfig(data=1, fsdp=4, tensor=2),
}


# --- Training ------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_a_run_learns_and_resumes(model, shapes_root, tmp_path):
    # Sheets of one of them are enough: the sampler knows nothing of what a carry is.
    settings = ["run.keep=9", "optimizer.steps=8"]
    settings += [f"sheets.every_steps={8 if model == 'dit' else 0}"]
    config = tiny_config(shapes_root, *settings, model=model)
    train(config, tmp_path / "whole")
    losses = [line["loss"] for line in read_metrics(tmp_path / "whole")]
    assert len(losses) == 8 and np.mean(losses[4:]) < np.mean(losses[:4])
    sheet = tmp_path / "whole" / "sheets" / "0000008-ema.gif"
    assert sheet.is_file() == (model == "dit")
    whole = restore(tmp_path / "whole")
    # As if it had been killed after step 4.
    kept = shutil.ignore_patterns("sheets")
    shutil.copytree(tmp_path / "whole", tmp_path / "again", ignore=kept)
    for step in (6, 8):
        shutil.rmtree(tmp_path / "again" / "checkpoints" / str(step))
    assert kept_steps(tmp_path / "again") == [2, 4]
    train(config, tmp_path / "again")
    again = restore(tmp_path / "again")
    assert set(again) == set(whole)
    for name, leaf in whole.items():
        np.testing.assert_array_equal(again[name], leaf, err_msg=name)


@pytest.mark.parametrize("model", MODELS)
def test_guided_samples_have_the_size_of_the_data(model):
    settings = experiment(model)
    mesh = make_mesh(MeshConfig(), batch=8)
    work = sampler(settings, mesh, clips=8)
    clips = jax.eval_shape(work.jitted, *work.args)
    assert work.args[1].guidance is not None
    assert (clips.shape, clips.dtype) == ((8, 2, 14, 16, 3), jnp.uint8)


# --- Meshes --------------------------------------------------------------------------


@functools.cache
def experiment(model):
    changes = ["optimizer.warmup_steps=0", "training.label_dropout=0.5"]
    return configs.build(tiny_config("nowhere", *changes, model=model))


@functools.cache
def initial_state(model):
    """None of its parameters is zero, and it depends smoothly on its gradients."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: nn.unbox(fresh_state(experiment(model))))

    def shake(path, leaf):
        is_scale = path[-1].key == "scale"
        noise = 0.3 * rng.normal(size=leaf.shape) + is_scale
        return noise.astype(np.float32)

    def fill(path, leaf):
        is_second_moment = ".nu" in jax.tree_util.keystr(path)
        return np.full(leaf.shape, 1e-4 if is_second_moment else 0, leaf.dtype)

    params = jax.tree_util.tree_map_with_path(shake, shapes.params)
    return shapes.replace(
        step=np.zeros((), np.int32),
        params=params,
        opt_state=jax.tree_util.tree_map_with_path(fill, shapes.opt_state),
        ema=jax.tree.map(np.copy, params),
        norms=np.zeros(shapes.norms.shape, np.float32),
    )


@functools.cache
def one_step(model, config):
    settings, rng = experiment(model), np.random.default_rng(1)
    sizes = [n for n in (config.data, config.fsdp, config.tensor) if n > 0]
    mesh = make_mesh(config, batch=8, devices=jax.devices()[: int(np.prod(sizes))])
    places = state_shardings(abstract_state(settings), mesh)
    batch = {
        name: np.ones(leaf.shape, leaf.dtype)
        for name, leaf in abstract_batch(settings).items()
    }
    batch["video"] = rng.integers(256, size=batch["video"].shape, dtype=np.uint8)
    batch["text"] = rng.normal(size=batch["text"].shape).astype(np.float32)
    batch["sample"] = np.arange(8, dtype=np.uint32)
    state = jax.device_put(jax.tree.map(np.copy, initial_state(model)), places)
    step = jit_train_step(settings, mesh, places)
    return step(state, put_batch(batch, batch_sharding(mesh)), jax.random.key(3))


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("mesh", MESHES)
def test_a_step_is_the_same_on_any_mesh(model, mesh):
    state, metrics = one_step(model, MESHES[mesh])
    reference, expected = one_step(model, MeshConfig(data=1))
    for name in ("loss", "grad_norm"):
        np.testing.assert_allclose(metrics[name], expected[name], rtol=1e-4)
    begun = by_name(initial_state(model).params)
    theirs = by_name(reference.params)
    for name, leaf in by_name(state.params).items():
        moved = np.abs(theirs[name] - begun[name]).max()
        np.testing.assert_allclose(
            leaf, theirs[name], atol=2e-2 * moved + 1e-6, err_msg=name
        )


@pytest.mark.parametrize("model", MODELS)
def test_fsdp_divides_every_large_kernel(model):
    boxed = abstract_state(experiment(model)).params
    mesh = make_mesh(MeshConfig(fsdp=4), batch=8)
    places = jax.tree_util.tree_leaves_with_path(state_shardings(boxed, mesh))
    sizes = by_name(jax.tree.map(lambda leaf: np.prod(leaf.shape), nn.unbox(boxed)))
    for path, place in places:
        name = jax.tree_util.keystr(path)
        divided = "fsdp" in jax.tree.leaves(tuple(place.spec))
        ends = any(part in name for part in ("stem", "patch_embed", "relative"))
        assert divided or sizes[name] < 512 or ends, name


# --- Their plans and reports ----------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
def test_a_dry_run_tells_tokens_and_operations(model):
    found = dry_run(tiny_config("nowhere", model=model))
    tokens = {
        "unet": {"positions of level 0": 512, "positions of level 1": 128, "text": 4},
        "dit": {"patches": 32, "text": 4},
    }[model]
    assert found["tokens"] == tokens
    built = configs.build(tiny_config("nowhere", model=model))
    flops = built.model.forward_flops(built.text.tokens, built.text.width)
    assert found["forward_flops_per_sample"] == sum(flops.values()) > 0


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_a_search_knows_what_the_network_can_do(model):
    config = tiny_config("nowhere", model=model)
    found = candidates(config, Target("v5e:2x2"), 4)
    contexts = {choice.context for choice, _ in found.ranked}
    assert contexts == ({1} if model == "unet" else {1, 2, 4})
    saved = [
        Estimator(config)(Choice(remat), Target("v5e:2x2"), 4).activations
        for remat in ("none", "dots", "layer", "block")
    ]
    assert saved[0] > saved[1] > saved[2] and min(saved) > 0


# --- The table -----------------------------------------------------------------------


def test_the_table_measures_networks_in_turns_and_gives_their_ratios(run, monkeypatch):
    """Tiny networks stand in, a DiT for the U-Net, which takes long to compile."""
    tiny = {"unet-284m": "tiny_config.py:model=dit", "fit-500m": "tiny_config.py"}
    rivals = {
        name: networks.Network(config, models.NETWORKS[name].paper)
        for name, config in tiny.items()
    }
    monkeypatch.setattr(models, "NETWORKS", rivals)
    monkeypatch.setattr(models.shipped, "CONFIGS", pathlib.Path(__file__).parent)
    options = ("--divide", "1", "--batch", "8", "--steps", "2", "--json")
    code, out, err = run("bench", "models", *options)
    assert code == 0, err
    found = json.loads(out)
    rows = found["models"]
    for row in rows.values():
        for use in ("training", "inference"):
            timed = row[use]
            assert 0 < timed["lower_quartile"] <= timed["milliseconds"]
            assert timed["compiler_gbytes"] > 0
            assert timed["compiler_gflops"] > 0 < timed["model_gflops"]
    assert (rows["unet-284m"]["self_conditioned"], found["batch"]) == (0, 8)
    assert rows["fit-500m"]["self_conditioned"] == 0.5
    ours = found["ratios"]["fit-500m"]["training"]
    assert ours["paper"] == pytest.approx(3.31, abs=0.01)
    assert ours["measured"] == pytest.approx(
        rows["unet-284m"]["training"]["milliseconds"]
        / rows["fit-500m"]["training"]["milliseconds"]
    )
    text = models.describe(found)
    assert "times as fast as unet-284m" in text and "paper 4.49" in text


def test_ratios_of_the_paper_are_those_that_it_claims():
    rows = {
        name: {"paper_milliseconds": rival.paper, "training": {}, "inference": {}}
        for name, rival in models.NETWORKS.items()
    }
    found = models.ratios(rows)
    assert found["fit-500m"]["training"]["paper"] == pytest.approx(3.31, abs=0.01)
    assert found["fit-500m"]["inference"]["paper"] == pytest.approx(4.49, abs=0.01)
    slower = 1 / found["fit-3p9b"]["inference"]["paper"]
    assert slower == pytest.approx(1.24, abs=0.005)


@pytest.mark.parametrize("name", models.NETWORKS)
def test_a_twin_has_the_tokens_and_heads_of_the_network_it_stands_for(name):
    narrow, whole = (
        configs.build(models.scaled_config(name, divide)) for divide in (8, 1)
    )
    assert narrow.model.tokens(128) == whole.model.tokens(128)
    for field in ("latent", "patch"):
        if hasattr(whole.model, f"{field}_width"):
            heads = [
                getattr(one.model, f"{field}_width")
                // getattr(one.model, f"{field}_head_width")
                for one in (narrow, whole)
            ]
            assert heads[0] == heads[1]


@pytest.mark.parametrize(
    "arguments, line",
    [
        (["models", "--only", "gan"], "--only=gan is unknown; use one of unet-85m"),
        (["models", "--config", "configs/fit.py"], "bench models has its own configs"),
        (["models", "--divide", "7"], "--divide=7 does not divide model."),
        (["models", "--steps", "0"], "argument --steps: 0 is too small"),
        (["--only", "fit-500m"], "--only is for bench models only"),
        ([], "--config is missing; give the config to measure"),
        (["data"], "--config is missing"),
    ],
)
def test_a_wrong_wish_ends_the_table_in_one_line(run, arguments, line):
    code, out, err = run("bench", *arguments)
    assert (code, out) == (2, "")
    assert line in err.splitlines()[-1]


def test_forecasts_are_of_one_clip_and_one_evaluation(monkeypatch):
    def planned(request):
        unit = "step" if request.clips is None else "batch"
        return {
            "fits": True, "devices": 128, "evaluations": 8, "traffic": 32e9,
            "seconds": {unit: 0.64, "by_cycles": 1.28}, "flops": {"program": 64e12},
            "parts": {"read": {"seconds": 0.32, "product_seconds": 0.16,
                               "flops": 32e12, "bytes": 16e9}},
        }  # fmt: skip

    monkeypatch.setattr(models, "cached_plan", planned)
    found = models.planned_costs("unet-284m", Target("v5p:4x4x8"))
    assert found["training"]["milliseconds"] == pytest.approx(20.0)
    assert found["inference"]["milliseconds"] == pytest.approx(2.5)
    assert found["inference"]["milliseconds_by_cycles"] == pytest.approx(5.0)
    assert found["training"]["gflops"] == pytest.approx(2000)
    assert found["training"]["gbytes"] == pytest.approx(1.0)
    read = found["training"]["parts"]["read"]
    assert read["seconds"] == pytest.approx(0.01)
    assert (read["flops"], read["bytes"]) == pytest.approx((1e12, 0.5e9))


def test_saved_plans_are_shown_where_no_config_is_named():
    plan = golden_plan("fit-500m-v5p-4x4x8")
    found = models.golden_plan_costs("fit-500m")
    of_clip = 1e3 * plan["seconds"]["step"] * 128 / 4096
    assert found["training"]["milliseconds"] == pytest.approx(of_clip)
    assert models.golden_plan_costs("dit-flops") is None


def test_the_work_by_part_adds_up_to_the_networks(run, nothing_compiles):
    code, out, err = run(
        *("bench", "models", "--by_part", "--only", "unet-284m,fit-500m", "--json")
    )
    assert code == 0, err
    unet, fit = (json.loads(out)[name] for name in ("unet-284m", "fit-500m"))
    total = {"unet": sum(unet["forward_gflops"].values())}
    total["fit"] = sum(fit["forward_gflops"].values())
    assert total == pytest.approx({"unet": 1833.6, "fit": 703}, rel=1e-3)
    blocks = unet["forward_gflops"]["residual blocks"]
    assert blocks + unet["forward_gflops"]["resampling blocks"] > 0.8 * total["unet"]
    assert max(fit["forward_gflops"], key=fit["forward_gflops"].get) == "global"
    # What is left of the paper's 4.49 and 3.31 is not in the number of operations.
    assert total["unet"] / total["fit"] == pytest.approx(2.61, abs=0.01)
    trained = {"unet": unet["train_passes"], "fit": fit["train_passes"]}
    assert trained["unet"] * total["unet"] / (trained["fit"] * total["fit"]) == (
        pytest.approx(2.0, abs=0.01)
    )


def test_the_work_of_a_plan_is_printed_by_part():
    work = {"seconds": 0.002, "product_seconds": 0.001, "flops": 2e9, "bytes": 3e9}
    planned = {"training": {"parts": {"read": work}}, "inference": {"refusal": "no"}}
    text = networks.describe({"fit-500m": networks.by_part("fit-500m", planned)})
    assert "global" in text and " inference: no" in text
    assert text.splitlines()[-2].split() == [
        "read",
        "2.000",
        "100.0%",
        "50%",
        "2",
        "3.00",
    ]
