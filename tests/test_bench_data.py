"""`snapvideo bench data`: the time of each stage of reading, and the cores of a pod."""

import json

import pytest
from helpers import TINY_CONFIG

from snapvideo_jax import config as configs
from snapvideo_jax.io import shipped
from snapvideo_jax.planning import golden_plans
from snapvideo_jax.planning.bench import data


def test_stages_add_up_and_feed_a_pod(shapes_root, run):
    code, out, errors = run(
        *("bench", "data", "--config", TINY_CONFIG, "--json", "--steps", 2),
        *(f"--config.data.root={shapes_root}", "--step_seconds", 0.25),
    )
    assert code == 0, errors
    result = json.loads(out)
    assert list(result["stages"]) == ["read", "decode", "resize", "batch"]
    assert result["clips"] == 2 * 8
    assert sum(result["stages"].values()) >= result["seconds_per_clip"] > 0
    assert result["stages"]["decode"] > result["stages"]["read"]
    rates = result["clips_per_second"]
    assert rates["one core"] == pytest.approx(1 / result["seconds_per_clip"])
    assert len(rates) == 3 and min(rates.values()) > 0
    pod = result["pod"]
    assert pod["clips_per_second"] == 8 / 0.25
    assert pod["cores"] == pytest.approx(32 * result["seconds_per_clip"])


def test_a_golden_plan_gives_the_clips_a_pod_needs_whatever_the_data_source():
    name = "fit-500m-v6e-16x16"
    golden = golden_plans.GOLDEN_PLANS[name]
    file = str(shipped.CONFIGS / golden.config)
    overrides = ["--config.data.source=folder", "--config.data.root=clips"]
    config = configs.load(file, overrides)
    found = data.clips_needed(config, data.BenchDataOptions(plan="v6e:16x16"))
    assert found == (name, golden.read()["plan"]["clips_per_second"], 256)
    other = configs.load(file, ["--config.data.frames=8"])
    assert data._golden_plan(other, "v6e:16x16") is None


def test_what_limits_is_the_stage_that_costs_most():
    result = {
        "stages": {"read": 0.001, "decode": 0.006, "resize": 0.002, "batch": 0.001},
        "seconds_per_clip": 0.01,
        "clips_per_second": {"one core": 100.0},
    }
    result["pod"] = data.cores_needed(result, "v6e:2x2", 1000.0, 4)
    text = data.describe(result)
    assert "limited by    decode" in text
    assert "decode        6.000 ms a clip, 60.0%" in text
    assert "(v6e:2x2): 10.0 cores like these, 2.50 a device" in text


def test_the_seconds_of_a_step_are_above_0(run):
    line = ["bench", "data", "--config", TINY_CONFIG, "--step_seconds", 0]
    code, _, errors = run(*line)
    assert code == 2
    assert "argument --step_seconds: 0 is out of range; use above 0." in errors
    with pytest.raises(ValueError, match="--step_seconds=-1 is out of range"):
        data.BenchDataOptions(step_seconds=-1)
