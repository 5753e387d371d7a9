"""docs/paper.md has every number, and small_world.py the order of its rows."""

import pathlib
import re
import shlex

import jax
import numpy as np
import pytest

from snapvideo_jax import __main__ as cli
from snapvideo_jax import config as configs
from snapvideo_jax.evaluation.protocols.settings import PROTOCOLS
from snapvideo_jax.models.flops import flops_forward

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture
def paper(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return pytest.importorskip("paper")


@pytest.fixture
def small_world(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return pytest.importorskip("small_world")


def test_the_page_is_up_to_date(paper):
    assert paper.PAGE.read_text() == paper.page(), "run python benchmarks/paper.py"


def test_every_number_has_a_config_and_a_command(paper):
    found = list(paper.numbers())
    counts = {}
    for one in found:
        counts[one.table] = counts.get(one.table, 0) + 1
        assert one.command in paper.COMMANDS
        for name in re.findall(r"(\w+\.py)", one.config):
            assert (ROOT / "configs" / name).is_file()
    assert counts == {
        **{"Tab. 2": 20, "Tab. 3": 15, "Tab. 4": 6, "Tab. 5": 6, "Tab. 6": 12},
        **{"Fig. 5": 1, "Fig. 6": 1},
    }
    assert ("Tab. 4", "512x288", "FVD", "200.2") in {
        (one.table, one.row, one.quantity, one.value) for one in found
    }


def test_targets_of_protocols_equal_the_papers_numbers(paper):
    views = {"native": "512x288", "square": "288x288"}
    remaining = {
        (one.table, one.row, one.quantity): float(one.value)
        for one in paper.numbers()
        if one.table in ("Tab. 4", "Tab. 5")
    }
    for name in ("ucf101", "msrvtt"):
        protocol = PROTOCOLS[name]
        for view, targets in protocol.targets.items():
            for metric, value in targets.items():
                label = metric.upper().replace("_", "-")
                assert remaining.pop((protocol.paper, views[view], label)) == value
    assert not remaining


def test_commands_of_the_page_parse(paper):
    parser = cli._parser()
    for text in paper.COMMANDS.values():
        for line in text.split("\n"):
            words = shlex.split(line)
            if words[0] != "snapvideo":
                assert (ROOT / words[1]).is_file()
                continue
            _, rest = parser.parse_known_args(words[1:])
            assert all(word.startswith("--config.") for word in rest), rest


# --- Tab. 2 and 3 at small scale ------------------------------------------------


def test_rows_are_the_papers_at_small_scale(small_world):
    built = {
        row: configs.build(small_world.config_of(row, 100, seed=2))
        for row in small_world.every_row()
    }
    assert len(built) == 8
    ours = built["FIT 500M"]
    assert (ours.diffusion.sigma_in, ours.diffusion.sigma_data) == (4, 1)
    assert built["EDM"].diffusion.sigma_in == 1
    assert not built["(iv) images not videos"].diffusion.images_as_videos
    # All of Tab. 3 differ in the framework alone.
    for row in small_world.PAPER["3"]:
        assert built[row].model == ours.model and built[row].data == ours.data
        assert built[row].optimizer == ours.optimizer
    work = {row: flops_forward(built[row]) for row in small_world.PAPER["2"]}
    assert work["FIT 500M"] < work["U-Net 85M"] < work["U-Net 284M"]
    with pytest.raises(ValueError, match="There is no row"):
        small_world.config_of("GAN", 100, 0)


def test_the_frozen_features_separate_real_clips_from_others(small_world):
    """Untrained ones do already; training makes them read the prompt's attributes."""
    model = small_world.Reader()
    params = model.init(jax.random.key(0), np.zeros((1, 8, 16, 16, 3)))
    real = small_world.real_clips(48, "test", 100)
    assert real.shape == (48, 8, 16, 16, 3) and real.dtype == np.uint8
    again = small_world.distance_of(params, real, real)
    near = small_world.distance_of(params, small_world.real_clips(48, "test"), real)
    still = small_world.distance_of(params, real[:, :1].repeat(8, 1), real)
    noise = np.random.default_rng(0).integers(256, size=real.shape, dtype=np.uint8)
    far = small_world.distance_of(params, noise, real)
    assert again == pytest.approx(0, abs=1e-4)
    assert again < near < still < far


def test_orders_agree_disagree_or_are_open(small_world):
    values = {"EDM": 9.0, "(iii) sigma_in 2": 3.0, "FIT 500M": 4.0, "FIT 3.9B": 4.1}
    found = [
        {
            **{"row": row, "seed": seed, "steps": 5, "parameters": 9, "seconds": 2.0},
            **{"frechet": value + 0.1 * seed, "obeyed": 0.5},
        }
        for row, value in values.items()
        for seed in (0, 1, 2)
    ]
    tables = small_world.summary(found)
    orders = {(a, b): v for a, b, m, v in tables["3"]["orders"] if m == "frechet"}
    assert orders == {
        ("EDM", "(iii) sigma_in 2"): "agrees",
        ("EDM", "FIT 500M"): "agrees",
        ("(iii) sigma_in 2", "FIT 500M"): "disagrees",
    }
    (order,) = [o for o in tables["2"]["orders"] if o[2] == "frechet"]
    assert order == ["FIT 500M", "FIT 3.9B", "frechet", "open"]
    assert {v for *_, m, v in tables["3"]["orders"] if m == "obeyed"} == {"open"}
    mean, spread, error = tables["3"]["rows"]["EDM"]["frechet"]
    assert (mean, spread) == pytest.approx((9.1, 0.1))
    assert error == pytest.approx(0.1 / 3**0.5)
    text = small_world.page(tables)
    assert "| EDM | 9 | 5 | 3 | 9.1 +- 0.1 |" in text
    assert "**Disagrees** with the paper's order (1): (iii) sigma_in 2 and" in text
