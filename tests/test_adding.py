"""The examples of docs/extending.md do what the page says."""

import importlib.util
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from documented import ROOT, blocks
from tiny import context

from snapvideo_jax import config as configs
from snapvideo_jax.data import TFDSSource, builders
from snapvideo_jax.data.records import encode_mp4
from snapvideo_jax.diffusion import EDM, SOLVERS, Sampler, sample
from snapvideo_jax.models import FIT, MODELS, Network
from snapvideo_jax.planning.programs import abstract_batch
from snapvideo_jax.state import abstract_state
from snapvideo_jax.step import train_step_of

BLOCKS = blocks(ROOT / "docs" / "extending.md", "python")


def example(name, folder):
    """The module that is made of the block that has ``name``."""
    (text,) = [block for block in BLOCKS if f"{name}(" in block and "import" in block]
    path = folder / "example.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location("example", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["example"] = module  # where TFDS looks a builder up
    spec.loader.exec_module(module)
    return module


def test_the_data_set_is_built_and_read(tmp_path, monkeypatch):
    (tmp_path / "clips").mkdir()
    frames = np.zeros((4, 16, 16, 3), np.uint8)
    (tmp_path / "clips" / "a_red_fox.mp4").write_bytes(encode_mp4(frames, fps=8))
    kind = example("NamedClips", tmp_path).NamedClips
    monkeypatch.setitem(builders.BUILDERS, kind.name, kind)
    builders.build("named_clips", tmp_path / "clips", tmp_path / "data")
    source = TFDSSource("named_clips", "video", "train", str(tmp_path / "data"))
    assert [source[index].caption for index in range(len(source))] == ["a red fox"]


def test_the_solver_is_of_second_order(tmp_path, monkeypatch):
    monkeypatch.setattr("snapvideo_jax.diffusion.solvers.SOLVERS", SOLVERS.copy())
    solver = example("ralston", tmp_path).SOLVERS["ralston"]
    monkeypatch.setitem(SOLVERS, "ralston", solver)
    std, steps = 0.7, (64, 128, 256)
    with jax.enable_x64(True):
        edm = EDM(sigma_in=4.0, sigma_min=1e-7, sigma_max=20.0)
        start = jnp.array([[20.0, -7.0]])
        small = (std / edm.sigma_in) ** 2

        def denoise(x, sigma, carry):
            return std**2 / edm.sigma_in / (small + sigma[:, None] ** 2) * x, carry

        def error(steps):
            keys = jax.random.split(jax.random.key(0), 1)
            sampler = Sampler(steps, "ralston")
            clip, _ = sample(denoise, start, (), keys, edm, sampler)
            exact = start * std / np.sqrt(small + edm.sigma_max**2)
            return float(jnp.abs(clip / exact - 1).max())

        errors = [error(number) for number in steps]
    slope = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert abs(-slope - 2) < 0.3, errors


@pytest.fixture
def pooled(tmp_path, monkeypatch):
    """The example's network, known as configs know others."""
    kind = example("Pooled", tmp_path).Pooled
    monkeypatch.setitem(MODELS, "pooled", kind)
    monkeypatch.setitem(configs.DERIVED, kind, configs.DERIVED[FIT])
    return kind


def test_the_network_trains_by_a_config(pooled):
    config = configs.load("demo", ["--config.training.self_conditioning=0"])
    config.model = configs.model_section("pooled", patch_width=16, dtype="float32")
    experiment = configs.build(config)
    assert isinstance(experiment.model, pooled) and isinstance(
        experiment.model, Network
    )
    assert experiment.model.tokens(16)["patches"] == 8 * 4 * 4
    step = train_step_of(experiment)
    state = nn.unbox(abstract_state(experiment))
    key = jax.eval_shape(lambda: jax.random.key(0))
    after, metrics = jax.eval_shape(step, state, abstract_batch(experiment), key)
    assert metrics["loss"].shape == ()
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)


def test_the_network_sees_caption_and_number_and_begins_with_zeros(pooled):
    model = pooled(2, 4, 8, patch_width=8, blocks=1, dtype="float32")
    model.validate()
    clip = jnp.ones((2, 2, 4, 8, 3))
    inputs = clip, jnp.zeros(2), context()
    params = nn.unbox(model.init(jax.random.key(0), *inputs))
    output, carry = model.apply(params, *inputs)
    assert output.shape == clip.shape and carry == () and not output.any()
    params["params"]["pixels"]["kernel"] += 1.0
    same = model.apply(params, *inputs)[0]
    other = model.apply(params, clip, jnp.ones(2), context())[0]
    assert np.abs(same - other).max() > 1e-3
    with pytest.raises(ValueError, match="model.width=6 is not a multiple"):
        pooled(width=6).validate()
