"""What is worth compiling: estimates, the search, and what fits in place of what
does not. Compilations are simulated."""

import functools
import logging

import pytest
from helpers import tiny_config

from snapvideo_jax.models.remat import REMAT
from snapvideo_jax.planning import PlanRequest, Target, cache, nearest, search
from snapvideo_jax.planning.estimate import REMATS, Choice, Estimator

TARGET = Target("v5e:2x2")
LIMIT = TARGET.chip.hbm_bytes


def config(*overrides):
    batch = ("data.videos_per_batch=24", "data.images_per_batch=8")
    return tiny_config("nowhere", *batch, *overrides)


@functools.cache
def estimator():
    return Estimator(config())


def estimate(**fields):
    return estimator()(Choice(**fields), TARGET, 4)


@pytest.fixture(autouse=True)
def few_choices(monkeypatch):
    """So that listing them takes no time."""
    monkeypatch.setattr(search, "MICROBATCHES", (1, 2))
    monkeypatch.setattr(search, "TENSOR", (1,))
    monkeypatch.setattr(search, "REMATS", ("none", "dots", "layer"))


@pytest.fixture
def compiled(monkeypatch):
    """Simulates compilations: functions of the choice give a step's time and memory.
    Returns the list of requests that were compiled."""
    asked, plans = [], {}

    def simulate(seconds=lambda chosen: 1.0, gigabytes=lambda chosen: 1.0):
        def key_of(request):
            return Choice.of(request.config), request.target, request.clips

        def cached_plan(request):
            key = key_of(request)
            if key not in plans:
                asked.append(request)
                chosen = Choice.of(request.config)
                peak = 1e9 * gigabytes(chosen)
                plans[key] = {
                    "bytes": {"peak": peak, "limit": LIMIT},
                    "fits": peak <= LIMIT,
                    "seconds": {"step": seconds(chosen)},
                    "mfu": {"step": 0.5},
                }
            return plans[key]

        monkeypatch.setattr(cache, "cached_plan", cached_plan)
        monkeypatch.setattr(cache, "is_cached", lambda q: key_of(q) in plans)
        return asked

    return simulate


# --- Estimates -----------------------------------------------------------------------


def test_every_policy_of_the_model_is_searched():
    assert set(REMATS) == set(REMAT)


def test_estimates_fall_with_what_saves_memory():
    assert estimate(fsdp=4).state < estimate(fsdp=2).state < estimate().state / 1.5
    saved = [estimate(remat=remat).activations for remat in ("none", "dots", "layer")]
    assert saved == sorted(saved, reverse=True)
    half, whole = estimate(microbatches=2), estimate()
    assert half.activations == whole.activations / 2 and half.samples == 4


def test_recomputing_and_many_gathers_take_time():
    assert estimate(remat="layer").seconds > estimate(remat="dots").seconds
    assert estimate(fsdp=4, microbatches=2).seconds > estimate(fsdp=4).seconds


def test_what_does_not_fit_rules_out_what_needs_no_less():
    small = Choice("layer", microbatches=2, fsdp=4)
    assert Choice("dots", microbatches=2, fsdp=4).needs_as_much_as(small)
    assert Choice("layer", microbatches=1, fsdp=4).needs_as_much_as(small)
    assert not Choice("layer", microbatches=4, fsdp=4).needs_as_much_as(small)
    assert not Choice("block", microbatches=2, fsdp=4).needs_as_much_as(small)
    assert not Choice("dots", microbatches=2, fsdp=2).needs_as_much_as(small)


def test_the_command_line_of_a_choice_has_only_what_changes():
    base = Choice.of(config())
    assert Choice().overrides(base) == []
    assert Choice("dots").overrides(base) == ["--config.model.remat=dots"]
    wanted = ["--config.mesh.fsdp=4", "--config.mesh.data=-1"]
    assert Choice(fsdp=4).overrides(base) == wanted
    assert Choice.of(Choice("dots", fsdp=4).applied(config())) == Choice("dots", fsdp=4)


# --- The search ----------------------------------------------------------------------


def test_a_search_finds_the_fastest_that_fits(compiled):
    compiled(
        seconds=lambda c: 0.5 if (c.fsdp, c.remat) == (4, "dots") else 1.0,
        gigabytes=lambda c: 99.0 if c.remat == "none" else 5.0,
    )
    found = search.search(config(), TARGET, limit=1000)
    best = found["rows"][0]
    assert best["seconds"] == 0.5 and best["choice"]["remat"] == "dots"
    assert set(best["overrides"]) >= {
        "--config.model.remat=dots",
        "--config.mesh.fsdp=4",
        "--config.mesh.data=-1",
    }
    assert found["overrides"] == best["overrides"] and found["not_tried"] == 0
    text = search.describe(found)
    assert "does not fit by 83.5 GB a device" in text
    assert "fastest       --config.model.remat=dots --config.mesh.fsdp=4" in text


def test_the_configs_own_choice_is_the_first(compiled):
    asked = compiled()
    found = search.search(config("model.remat=layer"), TARGET, limit=1)
    assert [Choice.of(request.config) for request in asked] == [Choice("layer")]
    assert [row["is_own"] for row in found["rows"]] == [True]
    assert found["not_tried"] > 10
    assert "(the config's own)" in search.describe(found)


def test_a_second_search_goes_on_where_the_first_stopped(compiled, caplog):
    caplog.set_level(logging.INFO, "snapvideo_jax")
    asked = compiled()
    search.search(config(), TARGET, limit=3)
    assert len(asked) == 3
    found = search.search(config(), TARGET, limit=3)
    assert len(asked) == 6 and len(found["rows"]) == 6
    assert "3 of 3: " in caplog.text and "1 s a step, MFU 0.500" in caplog.text


def test_what_is_too_large_spares_what_needs_no_less(compiled):
    asked = compiled(gigabytes=lambda chosen: 99.0)
    found = search.search(config("model.remat=layer"), TARGET, limit=1000)
    seen = [Choice.of(request.config) for request in asked]
    assert not {Choice("none"), Choice("dots")} & set(seen)
    assert {Choice("layer"), Choice("dots", 2)} <= set(seen)
    assert found["left_out"][search.NO_LESS] == 2
    assert found["overrides"] is None
    assert "None of these fits." in search.describe(found)


def test_what_does_not_compile_is_a_row_with_its_reason(monkeypatch):
    def cached_plan(request):
        raise ValueError("Mosaic cannot do this\nand more")

    monkeypatch.setattr(cache, "cached_plan", cached_plan)
    monkeypatch.setattr(cache, "is_cached", lambda request: False)
    found = search.search(config(), TARGET, limit=2)
    assert [row["reason"] for row in found["rows"]] == ["Mosaic cannot do this"] * 2


def test_fields_of_the_command_line_stay_as_they_are():
    found = search.candidates(
        config("mesh.fsdp=2"), TARGET, 4, fixed=frozenset({"mesh.fsdp", "model.remat"})
    )
    assert {chosen.fsdp for chosen, _ in found.ranked} == {2}
    assert {chosen.remat for chosen, _ in found.ranked} == {"none"}


def test_batches_and_sizes_that_do_not_divide_are_counted():
    found = search.candidates(config(), TARGET, 4)
    assert all(estimate.samples % 1 == 0 for _, estimate in found.ranked)
    assert found.left_out["the mesh does not divide the devices"] > 0
    assert sum(found.left_out.values()) + len(found.ranked) == 3 * 2 * 3 * 3


# --- What would fit ------------------------------------------------------------------


def too_large(request, gigabytes=20.0):
    """The plan of a program that does not fit."""
    memory = {"parameters": 1e8, "peak": 1e9 * gigabytes, "limit": LIMIT}
    return {"devices": 4, "bytes": memory, "fits": False}


def test_the_nearest_that_fits_changes_one_thing(compiled):
    compiled(gigabytes=lambda chosen: 20.0 / chosen.microbatches)
    request = PlanRequest(config(), TARGET)
    found = nearest.nearest(request, too_large(request))
    assert found["verified"] and found["peak"] == 10e9
    assert found["changes"] == ["--config.training.microbatches=2"]
    text = nearest.describe(found, LIMIT)
    assert "microbatches=2: 10 GB of 15.5 GB a device (compiled)" in text


def test_what_was_not_compiled_is_called_a_guess(compiled):
    asked = compiled(gigabytes=lambda chosen: 15.6)
    request = PlanRequest(config(), TARGET)
    found = nearest.nearest(request, too_large(request))
    assert len(asked) == found["tried"] == nearest.TRIES
    assert not found["verified"] and found["peak"] <= LIMIT
    assert "(estimated, not compiled)" in nearest.describe(found, LIMIT)


def test_a_guess_that_was_too_low_corrects_the_others(compiled):
    asked = compiled(gigabytes=lambda chosen: 1e6)
    request = PlanRequest(config(), TARGET)
    found = nearest.nearest(request, too_large(request))
    assert len(asked) == found["tried"] == 1 and found["changes"] is None
    assert "no change that is known; 1 other compiled" in nearest.describe(found, LIMIT)


def test_far_too_large_wants_a_larger_topology(compiled):
    compiled(gigabytes=lambda chosen: 5.0)
    request = PlanRequest(config("model.remat=layer"), TARGET)
    found = nearest.nearest(request, too_large(request, 300.0))
    assert found["changes"][0].startswith("--topology=v5e:")


def test_where_nothing_would_do_it_says_so(compiled):
    compiled()
    request = PlanRequest(config(), TARGET)
    found = nearest.nearest(request, too_large(request, 1e9))
    assert found["changes"] is None
    assert "no change that is known" in nearest.describe(found, LIMIT)


def test_a_sampler_that_does_not_fit_makes_fewer_clips(compiled):
    asked = compiled(gigabytes=lambda chosen: 11.0)
    request = PlanRequest(config(), TARGET, clips=64)
    found = nearest.nearest(request, too_large(request))
    assert found["changes"] == ["--batch=32"]
    assert [each.clips for each in asked] == [32]


def test_a_sampler_whose_parameters_are_too_large_divides_them(compiled):
    compiled()
    request = PlanRequest(config(), TARGET, clips=4)
    result = too_large(request)
    result["bytes"]["parameters"] = 18e9
    found = nearest.nearest(request, result)
    assert found["changes"] == ["--config.mesh.fsdp=2", "--config.mesh.data=-1"]
