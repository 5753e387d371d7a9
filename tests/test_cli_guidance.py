"""Guidance on the command line: applied, recorded, refused where it is wrong."""

import json

import numpy as np
import pytest
from helpers import assert_one_line, strip

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "arguments, parts",
    [
        (["--prompt", "a", "--threshold", "1.5"], ["threshold=1.5 is not a quantile"]),
        (["--prompt", "a", "--threshold", "-1"], ["threshold=-1.0 is not a quantile"]),
        (
            ["--prompt", "a", "--guidance_interval", "5,1"],
            ["guidance.interval=(5.0, 1.0)", "the smaller one first"],
        ),
        (
            ["--prompt", "a", "--guidance_interval", "5"],
            ["--guidance_interval=5 is not two noise levels"],
        ),
        (
            ["--prompt", "a", "--guidance", "0", "--oscillate"],
            ["--oscillate does nothing", "g = 0 (1 + g = 1)"],
        ),
        (
            ["--prompt", "a", "--guidance", "0", "--negative_prompt", "b"],
            ["--negative_prompt does nothing", "--guidance above 0"],
        ),
        (["--prompt", "a", "--autoguidance", "2"], ["--autoguidance=2", "--autoguide"]),
        (["--prompt", "a", "--autoguide", "none"], ["none holds no run: none/config"]),
    ],
)
def test_wrong_guidance_ends_in_one_line(
    run, trained, nothing_compiles, tmp_path, arguments, parts
):
    out = tmp_path / "out"
    assert_one_line(
        run("sample", "--workdir", trained, "--out", out, *arguments), *parts
    )
    assert not out.exists()


def test_every_kind_of_guidance_is_applied_and_recorded(run, trained, tmp_path):
    """An earlier checkpoint guides; every kind changes the clip."""
    clips = {}
    for name, more in {
        "plain": [],
        "oscillating": ["--oscillate"],
        "interval": ["--guidance_interval", "0.5,10"],
        "threshold": ["--threshold", 0.5],
        "negative": ["--negative_prompt", "a green square"],
        "autoguided": ["--autoguide", f"{trained}@4", "--autoguidance", 1.5],
        "solver": ["--solver", "dpmpp_2m"],
    }.items():
        out = tmp_path / name
        code, _, err = run(
            *("sample", "--workdir", trained, "--out", out, "--prompt", "a red cross"),
            *("--format", "png", "--guidance", 8, "--steps", 12, *more),
        )
        assert code == 0, err
        clips[name] = strip(out, 0)
    for name, clip in clips.items():
        assert name == "plain" or (clip != clips["plain"]).any(), name

    about = json.loads((tmp_path / "negative" / "00000.json").read_text())
    assert about["guidance_settings"]["negative_prompt"] == "a green square"
    about = json.loads((tmp_path / "autoguided" / "00000.json").read_text())
    assert about["autoguide"] == f"{trained}@4"
    assert about["guidance_settings"]["autoguidance"] == 1.5
    assert about["guidance_settings"]["autoguidance_g"] == 0.5
    assert about["guidance_settings"]["interval"] == [0, float("inf")]
    about = json.loads((tmp_path / "oscillating" / "00000.json").read_text())
    assert about["guidance_settings"]["oscillate"] is True
    assert about["guidance_settings"]["low_1_plus_g"] == 1


def test_a_model_that_guides_itself_changes_nothing(run, trained, tmp_path):
    """``D_1 - D_0`` is zero, with self-conditioning too: both carries are the same."""
    for name, more in {"alone": [], "by itself": ["--autoguide", trained]}.items():
        code, _, err = run(
            *("sample", "--workdir", trained, "--out", tmp_path / name),
            *("--prompt", "a red cross", "--format", "png", "--guidance", 0, *more),
        )
        assert code == 0, err
    apart = strip(tmp_path / "alone", 0) - strip(tmp_path / "by itself", 0)
    assert np.abs(apart).max() <= 1


@pytest.mark.parametrize(
    "section, changes, parts",
    [
        ("data", {"frames": 4}, ["frames, height and width is (4, 14, 16)", "(2, 14"]),
        ("diffusion", {"sigma_in": 1.0}, ["sigma_in is 1.0", "here it is 4.0"]),
        ("text", {"tokens": 6}, ["'HashTextEncoder', 6, 8"]),
    ],
)
def test_a_model_that_cannot_guide_is_refused(
    run, trained, nothing_compiles, tmp_path, section, changes, parts
):
    other = json.loads((trained / "config.json").read_text())
    other[section] |= changes
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text(json.dumps(other))
    result = run(
        *("sample", "--workdir", trained, "--out", tmp_path / "out", "--prompt", "a"),
        *("--autoguide", tmp_path / "other"),
    )
    assert_one_line(result, "--autoguide=", "cannot guide this run", *parts)


def test_a_step_without_a_checkpoint_cannot_guide(run, trained, tmp_path):
    result = run(
        *("sample", "--workdir", trained, "--out", tmp_path / "out", "--prompt", "a"),
        *("--autoguide", f"{trained}@5"),
    )
    assert_one_line(result, "has no checkpoint of step 5", "[4, 8, 10, 12]")
