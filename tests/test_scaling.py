"""Scaling laws: found again in losses of a known law, and in runs of tiny networks."""

import csv
import json
import pathlib

import numpy as np
import pytest
from helpers import TINY_CONFIG, assert_one_line, tiny_config

from snapvideo_jax import config as configs
from snapvideo_jax.diffusion import EDM
from snapvideo_jax.models.flops import flops_per_sample
from snapvideo_jax.scaling import extrapolate, law, runs, sweep
from snapvideo_jax.scaling.law import Law
from snapvideo_jax.scaling.validate import losses_by_noise_bin, noise_levels

ROOT = pathlib.Path(__file__).parent.parent
KNOWN = Law(0.08, 0.05, 0.07, 0.45, 0.3, 1e9, 1e6)


def runs_of(known, sizes=5, budgets=(1e14, 1e15, 1e16), noise=0.0, seed=0):
    """FLOPs, samples and losses of an iso-FLOP sweep under a law."""
    pairs = [(f, c / f) for c in budgets for f in np.geomspace(1e8, 1e10, sizes)]
    flops, samples = np.array(pairs).T
    errors = noise * np.random.default_rng(seed).normal(size=len(flops))
    return flops, samples, known.loss(flops, samples) * np.exp(errors)


# --- The law -------------------------------------------------------------------------


def test_a_law_is_found_again_in_its_own_losses():
    found = law.fit(*runs_of(KNOWN))
    assert found.floor == pytest.approx(0.08, rel=1e-3)
    assert (found.alpha, found.beta) == pytest.approx((0.45, 0.3), rel=1e-3)
    assert found.exponent == pytest.approx(0.4, rel=1e-3)
    further = np.array([1e11]), np.array([1e9])
    assert found.loss(*further) == pytest.approx(KNOWN.loss(*further), rel=1e-3)


def test_the_best_size_is_where_the_loss_is_least():
    for budget in (1e13, 1e18):
        sizes = KNOWN.best_flops(budget) * np.geomspace(0.5, 2, 2001)
        least = sizes[KNOWN.loss(sizes, budget / sizes).argmin()]
        assert least == pytest.approx(KNOWN.best_flops(budget), rel=1e-3)
    ratio = KNOWN.best_flops(1e18) / KNOWN.best_flops(1e13)
    assert ratio == pytest.approx(1e5**KNOWN.exponent)


def test_one_run_that_went_wrong_moves_the_law_little():
    flops, samples, losses = runs_of(KNOWN)
    losses[7] *= 1.5
    assert law.fit(flops, samples, losses).exponent == pytest.approx(0.4, abs=0.05)


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    """Of the exponent and of the best size, under 1% noise, in 6 repetitions."""
    inside = {"exponent": 0, "best": 0}
    for seed in range(6):
        data = runs_of(KNOWN, noise=0.01, seed=seed)
        found = law.fit(*data)
        drawn = law.bootstrap(found, *data, draws=25, seed=seed)
        low, high = law.interval(each.exponent for each in drawn)
        inside["exponent"] += low <= KNOWN.exponent <= high
        low, high = law.interval(each.best_flops(1e16) for each in drawn)
        inside["best"] += low <= KNOWN.best_flops(1e16) <= high
        assert low < high
    assert min(inside.values()) >= 4, inside


def test_a_parabola_has_its_least_within_the_sizes_or_none():
    flops = np.geomspace(1e8, 1e10, 5)
    losses = 0.2 + 0.01 * np.log(flops / 2e9) ** 2
    assert law.parabola_minimum(flops, losses) == pytest.approx((2e9, 0.2))
    assert law.parabola_minimum(flops, -losses) is None
    assert law.parabola_minimum(flops, 0.1 * np.log(flops / 1e7) ** 2) is None
    assert law.parabola_minimum(flops[:2], losses[:2]) is None


@pytest.mark.parametrize(
    "data, line",
    [
        ([x[:5] for x in runs_of(KNOWN)], "5 runs are too few"),
        ((*runs_of(KNOWN)[:2], np.full(15, np.nan)), "not a positive number"),
        ((np.ones(6), np.arange(1.0, 7), np.ones(6)), "nearly the same size"),
    ],
)
def test_runs_that_do_not_determine_a_law_are_refused(data, line):
    with pytest.raises(ValueError, match=line):
        law.fit(*data)


# --- The sweep ----------------------------------------------------------------------


def base(root, *overrides):
    return tiny_config(root, "model.dropout=0.0", *overrides)


def test_each_axis_is_varied_alone_at_every_budget(nothing_compiles, tmp_path):
    config = base(tmp_path)
    experiment = configs.build(config)
    unit = flops_per_sample(experiment) * experiment.data.batch
    axes = {"width": (0.5, 1, 2), "blocks": (2, 4), "latents": (16,), "patch": (2,)}
    planned = sweep.plan_sweep(config, axes, (100 * unit, 200 * unit))
    # A value that is the base's own is not run twice.
    names = {(run.axis, run.value) for run in planned}
    assert names == {
        *(("base", 1), ("width", 0.5), ("width", 2)),
        *(("blocks", 4), ("latents", 16), ("patch", 2)),
    }
    assert len(planned) == 2 * len(names)
    sizes = {(run.axis, run.value): run for run in planned}
    assert sizes["base", 1].steps == 200
    assert sizes["width", 2].flops > sizes["base", 1].flops > sizes["width", 0.5].flops
    # Latents and patches cost operations and hardly any parameters.
    more = sizes["latents", 16]
    assert more.flops > 1.2 * sizes["base", 1].flops
    assert more.parameters < 1.1 * sizes["base", 1].parameters
    group = sizes["patch", 2].config["model"]["group"]
    assert tuple(group) == (4, 4), "groups keep their pixels"
    for run in planned:
        assert run.flops * run.samples == pytest.approx(run.budget, rel=0.03)
        built = configs.build(configs.from_json(json.dumps(run.config)))
        assert built.optimizer.steps == run.steps
        assert built.sheets.every_steps == 0
        heads = built.model.latent_head_width, built.model.patch_head_width
        assert heads == (8, 4), "heads keep their width"


def test_sweeps_that_make_no_sense_are_refused(tmp_path):
    config = base(tmp_path)
    for axes, budgets, line in (
        ({}, (1.0,), "--budgets=1 are 0 steps of base=1"),
        ({"blocks": (1.5,)}, (1e12,), "--blocks=1.5 is not a whole number"),
        ({"patch": (3,)}, (1e12,), "not a multiple of the 3 px"),
    ):
        with pytest.raises(ValueError, match=line):
            sweep.plan_sweep(config, axes, budgets)
    with pytest.raises(ValueError, match="use a config of 'fit'"):
        sweep.plan_sweep(tiny_config(tmp_path, model="dit"), {}, (1e12,))


def test_noise_levels_of_the_validation_are_those_of_training():
    edm = EDM(p_mean=-0.5, p_std=1.5)
    found = np.log(noise_levels(edm, np.arange(4000)))
    assert found.mean() == pytest.approx(-0.5, abs=0.01)
    assert found.std() == pytest.approx(1.5, rel=0.01)
    # Any stretch of them is spread as well as all.
    assert np.log(noise_levels(edm, np.arange(1000, 1100))).mean() == pytest.approx(
        -0.5, abs=0.1
    )


def test_losses_are_averaged_by_noise_bin():
    losses, sigma = np.array([1.0, 2.0, 3.0, 5.0]), np.array([0.01, 0.3, 0.4, 9.0])
    found = losses_by_noise_bin(losses, sigma, np.array([False, False, False, True]))
    assert found == {
        "video/sigma_0_to_0.02": 1.0,
        "video/sigma_0.1_to_0.5": 2.5,
        "image/sigma_2.0_to_inf": 5.0,
    }


# --- From runs to forecasts -----------------------------------------------------------


@pytest.mark.slow
def test_a_sweep_is_trained_validated_and_resumed(run, shapes_root, tmp_path):
    out = tmp_path / "sweep"
    unit = flops_per_sample(configs.build(base(shapes_root))) * 8
    generate = [
        *("scaling", "generate", "--config", TINY_CONFIG, "--out", out),
        *("--budgets", f"{20.4 * unit}", "--width", "0.5", "--validation", shapes_root),
        *(
            f"--config.data.root={shapes_root}",
            "--config.run.checkpoint_every_steps=99",
        ),
        "--config.model.dropout=0.0",
    ]
    code, printed, err = run(*generate)
    assert code == 0, err
    assert "2 runs, " in printed
    assert run("scaling", "run", "--out", out, "--part", "0/2", "--samples", 12)[0] == 0
    (pair,) = runs.results(out)
    result = pair[1]
    assert pair[0].axis == "base" and result["samples"] == 16
    assert result["loss"] > 0 and result["error"] > 0
    seen = result["bins"]
    assert seen and all(name.startswith(("video/", "image/")) for name in seen)
    # The same command trains nothing that is finished.
    metrics = out / "runs" / pair[0].name / "metrics.jsonl"
    before = metrics.read_text()
    _, _, log = run("scaling", "run", "--out", out, "--part", "0/2")
    assert f"{pair[0].name} is finished" in log and metrics.read_text() == before
    assert_one_line(run("scaling", "fit", "--out", out), "1 runs are too few")
    result = run(*generate[:-1], "--config.model.dropout=0.1")
    assert_one_line(result, "has another sweep")


@pytest.fixture
def finished(tmp_path):
    """A sweep of 9 runs with losses of a known law, as if it was trained."""
    found = []
    for budget in (1e14, 1e15, 1e16):
        for factor, flops in ((0.5, 3e8), (1.0, 1e9), (2.0, 4e9)):
            samples = round(budget / flops)
            axis = "base" if factor == 1 else "width"
            one = sweep.SweepRun(
                f"{budget:g}-{factor}", axis, factor, budget, samples // 8, samples,
                flops, int(flops / 1e3), {},
            )  # fmt: skip
            bins = {"video/sigma_0_to_0.02": 0.9, "video/sigma_2.0_to_inf": 0.1}
            loss = float(KNOWN.loss(flops, samples))
            found.append(
                (one, {"loss": loss, "error": 0.1, "seconds": 1, "bins": bins})
            )
    sweep.write(tmp_path, [one for one, _ in found], "none")
    (tmp_path / "results").mkdir()
    for one, result in found:
        (tmp_path / "results" / f"{one.name}.json").write_text(json.dumps(result))
    return tmp_path


def test_fits_forecasts_and_plots_by_the_command_line(run, finished):
    plan = ROOT / "docs/plans/fit-500m-v5p-4x4x8.json"
    fit = ("scaling", "fit", "--out", finished, "--flops", "1e18", "--plan", plan)
    code, printed, err = run(*fit, "--draws", 20)
    assert code == 0, err
    saved = json.loads((finished / "law.json").read_text())
    assert saved["law"]["exponent"] == pytest.approx(0.4, abs=0.01)
    (row,) = saved["ahead"]
    assert row["flops"] == pytest.approx(KNOWN.best_flops(1e18), rel=0.05)
    assert row["parameters"] == pytest.approx(row["flops"] / 1e3, rel=1e-3)
    hours = 1e18 / extrapolate.flops_per_chip_hour(plan)
    assert row["chip_hours"] == pytest.approx(hours)
    # A v5p makes some 300 TFLOP/s of the model's operations.
    assert 0.5 < hours < 2
    assert "chip-hours" in printed and "f_best ~ C^" in printed
    pytest.importorskip("matplotlib")
    assert run("scaling", "plot", "--out", finished)[0] == 0
    with (finished / "runs.csv").open() as file:
        table = list(csv.DictReader(file))
    assert len(table) == 9 and table[0]["video/sigma_0_to_0.02"] == "0.9"
    assert (finished / "law.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_missing_is_named(run, tmp_path, finished):
    assert_one_line(run("scaling", "fit", "--out", tmp_path / "no"), "has no sweep")
    assert_one_line(run("scaling", "plot", "--out", finished), "scaling fit first")
    wrong = ("scaling", "fit", "--out", finished, "--draws", 20, "--flops", "1e18")
    assert_one_line(
        run(*wrong, "--plan", ROOT / "README.md"), "is not a plan of a train step"
    )
    assert_one_line(
        run("scaling", "run", "--out", finished, "--part", "2/2"),
        "argument --part: 2/2 is not a part",
    )
    generate = (
        "scaling",
        "generate",
        "--config",
        "configs/clips.py",
        "--out",
        tmp_path,
    )
    assert_one_line(run(*generate, "--budgets", "1e15"), "--validation is missing")
    command = (*generate, "--budgets", "1e15", "--validation", tmp_path)
    assert_one_line(run(*command), "neither .array_record files nor")
