"""`snapvideo search_noise` scores noise levels, plots them, and resumes."""

import json

import numpy as np
import pytest
from helpers import assert_one_line, clips_folder
from PIL import Image
from stages import UPSAMPLER, make_run

from snapvideo_jax.sampling.noise_search import SCORES, best_of, psnr, sharpness

pytestmark = pytest.mark.usefixtures("one_device")

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def upsampler(tmp_path_factory):
    """The workdir of an upsampler."""
    return make_run(tmp_path_factory.mktemp("up") / "run", *UPSAMPLER)


def search(run, upsampler, out, *more):
    return run(
        *("search_noise", "--cascade", upsampler, "--out", out, "--count", 2),
        *("--steps", 2, "--guidance", 0, *more),
    )


def test_a_grid_is_scored_and_plotted(run, upsampler, tmp_path):
    root, out = clips_folder(tmp_path / "clips", {}), tmp_path / "out"
    code, printed, err = search(
        run, upsampler, out, "--clips", root, "--grid", "0.3,0,0.5"
    )
    assert code == 0, err
    found = json.loads((out / "search.json").read_text())
    assert list(found["levels"]) == ["0", "0.3", "0.5"]
    means = {float(k): level["mean"] for k, level in found["levels"].items()}
    assert len(set(means.values())) == 3
    assert means[found["best"]] == max(means.values())
    assert f"--small_noise {found['best']:g} is best of 3 by psnr" in printed
    assert found["count"] == 2 and found["sampler"]["steps"] == 2
    with Image.open(out / "search.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 5
    assert (out / "sheet.gif").stat().st_size > 0


def test_an_interrupted_search_resumes(run, upsampler, tmp_path, monkeypatch):
    """A longer grid reuses saved scores; other settings do not."""
    from snapvideo_jax.sampling import noise_search as verb

    root, out = clips_folder(tmp_path / "clips", {}), tmp_path / "out"
    rng, scored = np.random.default_rng(0), []

    def enlarged(generator, params, requests, small, real):
        scored.append(requests[0].small_noise)
        return rng.integers(256, size=real.clips.shape, dtype=np.uint8)

    monkeypatch.setattr(verb, "enlarged", enlarged)
    for more in (["0,0.3"], ["0,0.1,0.3"], ["0,0.3", "--seed", 1]):
        code, _, err = search(run, upsampler, out, "--clips", root, "--grid", *more)
        assert code == 0, err
    assert scored == [0, 0.3, 0.1, 0, 0.3]
    assert list(json.loads((out / "search.json").read_text())["levels"]) == ["0", "0.3"]


def test_scores_are_those_of_their_formulas():
    rng = np.random.default_rng(0)
    real = rng.integers(10, 246, size=(2, 2, 6, 8, 3), dtype=np.uint8)
    off = real + np.array([1, 10], np.uint8)[:, None, None, None, None]
    expected = 20 * np.log10(255 / np.array([1, 10]))
    np.testing.assert_allclose(psnr(off, real), expected)
    np.testing.assert_allclose(psnr(real, real), 100)
    np.testing.assert_allclose(sharpness(off, real), 0, atol=1e-12)
    half = (real // 2).astype(np.uint8)
    np.testing.assert_allclose(sharpness(half, real), np.log(4), rtol=0.02)


def test_the_best_is_the_least_error_or_the_highest_score():
    levels = {"0": {"mean": 1.0}, "0.1": {"mean": 3.0}, "0.2": {"mean": 2.0}}
    assert best_of(levels, SCORES["psnr"]) == "0.1"
    assert best_of(levels, SCORES["sharpness"]) == "0"


@pytest.mark.parametrize(
    "arguments, parts",
    [
        (["--grid", "0,0.6"], ["--grid=0,0.6 is not in 0 to 0.5"]),
        (["--grid", "a"], ["argument --grid: 'a' is not a list of values"]),
        (["--score", "fid"], ["--score=fid is unknown; use one of psnr"]),
        (["--clips", "none"], ["none"]),
        (["--count", "0"], ["argument --count: 0"]),
    ],
)
def test_wrong_options_end_in_one_line(
    run, upsampler, nothing_compiles, tmp_path, arguments, parts
):
    assert_one_line(search(run, upsampler, tmp_path / "out", *arguments), *parts)
    assert not (tmp_path / "out").exists()


def test_a_first_stage_has_no_noise_to_search(run, tmp_path):
    first = make_run(tmp_path / "first")
    assert_one_line(search(run, first, tmp_path / "out"), "is a first stage")
