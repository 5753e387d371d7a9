"""The PyTorch reader of examples/ gives what ours does, with the same weights."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exporting import exported
from flax.traverse_util import flatten_dict

from snapvideo_jax.diffusion import initial_noise
from snapvideo_jax.diffusion.noise import sample_keys
from snapvideo_jax.export import bundle, programs, standalone
from snapvideo_jax.sampling.generator import SamplerInputs

torch = pytest.importorskip("torch", reason="PyTorch comes with the parity extra")
EXAMPLES = pathlib.Path(__file__).parent.parent / "examples" / "torch"
PROMPT = "a red cross moving left"


@pytest.fixture(scope="module")
def reader():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        import snapvideo_fit

        yield snapvideo_fit


@pytest.fixture(scope="module")
def read(trained, reader, tmp_path_factory):
    """Our bundle, theirs, and the context of a caption, of numbers by name."""
    out = tmp_path_factory.mktemp("torch") / "bundle"
    exported(trained, out, "--prompt", PROMPT, "--weights", "raw")
    inputs = standalone.read_tensors(out / bundle.INPUTS)
    text, mask = bundle.read(out).experiment.text.encode([PROMPT])
    np.testing.assert_array_equal(inputs["text"], text)  # it is the caption's
    assert mask.sum() == 4
    return bundle.read(out), reader.Bundle(out), inputs


def tensors(arrays):
    return {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}


def test_the_reader_imports_torch_and_safetensors_alone():
    text = (EXAMPLES / "snapvideo_fit.py").read_text()
    lines = [line for line in text.splitlines() if line.startswith(("import", "from"))]
    packages = {line.split()[1].partition(".")[0] for line in lines}
    standard = {"argparse", "json", "math", "pathlib"}
    assert packages - standard == {"torch", "safetensors"}


def test_denoised_clips_and_latents_are_ours_to_1e_4(read):
    ours, theirs, inputs = read
    call = jax.jit(programs.denoiser(ours.experiment).function)
    weights, model = flatten_dict(ours.params(), sep="/"), ours.experiment.model
    rng = np.random.default_rng(0)
    size = (1, model.frames, model.height, model.width, 3)
    about = {name: inputs[name] for name in programs.TEXT}
    about["drop_text"] = np.zeros(1, bool)
    latents = np.zeros((1, model.latents, model.latent_width), np.float32)
    carry = theirs.no_latents(1)
    for number, sigma in enumerate((20.0, 1.0, 0.05)):  # each told what was before
        noisy = (sigma * rng.normal(size=size)).astype(np.float32)
        level = np.full(1, sigma, np.float32)
        given = {"noisy": noisy, "sigma": level, **about, "latents": latents}
        made = call(weights, given | {"latents_known": np.array([number > 0])})
        found, their_latents = theirs.denoise(
            torch.from_numpy(noisy), torch.from_numpy(level), tensors(about), *carry
        )
        np.testing.assert_allclose(found.numpy(), made["clip"], atol=1e-4)
        np.testing.assert_allclose(their_latents.numpy(), made["latents"], atol=1e-4)
        assert np.abs(made["clip"]).max() > 0.01
        latents = np.asarray(made["latents"])
        carry = their_latents, torch.ones(1, dtype=torch.bool)


def test_sampled_clips_are_ours_to_1e_4_of_their_size(read):
    ours, theirs, inputs = read
    experiment, model = ours.experiment, ours.experiment.model
    key = jax.random.key(0)
    generate = programs.generation(experiment, experiment.sampler)
    whole = dataclasses.replace(generate, finish=lambda clips: clips)  # not cut
    arrays = SamplerInputs(
        {name: jnp.asarray(inputs[name]) for name in programs.TEXT},
        jnp.zeros(1, jnp.uint32),
        key,
        jnp.float32(2.0),
    )
    made = jax.jit(whole)(ours.params(), arrays)
    keys = sample_keys(key, jnp.zeros(1, jnp.uint32))
    size = (model.frames, model.height, model.width, 3)
    noise = initial_noise(keys, size, experiment.diffusion)
    noise = torch.from_numpy(np.array(noise / experiment.diffusion.sigma_max))
    context = tensors({name: inputs[name] for name in programs.TEXT})
    found = theirs.sample(noise, context, steps=2, guidance=2.0)
    size = np.abs(made).max()  # a network that learned for 12 steps is far off
    np.testing.assert_allclose(found.numpy() / size, made / size, atol=1e-4)


def test_a_bundle_of_another_version_is_refused(read, reader, tmp_path):
    text = (read[0].folder / "config.json").read_text()
    path = tmp_path / "config.json"
    path.write_text(text.replace('"format_version": 1', '"format_version": 2'))
    with pytest.raises(ValueError, match="has version 2; this file reads version 1"):
        reader.Bundle(tmp_path)
