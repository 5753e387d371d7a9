"""The PyTorch network that ours is measured against is the same network."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

torch = pytest.importorskip("torch", reason="PyTorch comes with the parity extra")
BENCHMARKS = pathlib.Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def torch_fit(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return pytest.importorskip("torch_fit")


def tensor(array):
    return torch.from_numpy(np.array(array))


@pytest.fixture
def networks(torch_fit):
    """Our call of the parameters, theirs with the same ones, on equal inputs."""
    model = tiny.fit()
    theirs = torch_fit.TorchFIT(model, tiny.TEXT_WIDTH)
    torch_fit.load(theirs, tiny.random_params(model))
    about, previous = tiny.context(), tiny.previous(model)
    c_noise = jnp.linspace(-1.0, 0.5, 2)

    def ours(params):
        inputs = tiny.clip(model), c_noise, about, previous
        return model.apply({"params": params}, *inputs)

    fields = {
        field.name: tensor(value)
        for field in dataclasses.fields(about)
        if (value := getattr(about, field.name)) is not None
    }
    inputs = tensor(tiny.clip(model)), tensor(c_noise), fields
    known = tensor(previous.value), tensor(previous.known)
    return ours, theirs, lambda: theirs(*inputs, *known)


def test_equal_weights_give_equal_outputs_and_latents(networks):
    ours, _, call = networks
    output, latents = jax.jit(ours)(tiny.random_params(tiny.fit()))
    their_output, their_latents = call()
    for a, b in ((output, their_output), (latents.value, their_latents)):
        np.testing.assert_allclose(a, b.detach().numpy(), atol=1e-4)


def test_equal_weights_give_equal_gradients(networks, torch_fit):
    ours, theirs, call = networks

    def loss(params):
        return (ours(params)[0] ** 2).mean()

    grads = jax.jit(jax.grad(loss))(tiny.random_params(tiny.fit()))
    call()[0].square().mean().backward()
    for name, parameter in theirs.named_parameters():
        wanted = torch_fit.namesake(grads, name)
        found = parameter.grad.numpy()
        scale = np.abs(wanted).max() + 1e-3
        np.testing.assert_allclose(
            found / scale, wanted / scale, atol=1e-3, err_msg=name
        )


def test_both_train_on_the_same_loss(networks, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    parity = pytest.importorskip("torch_parity")
    edm = parity.EDM(sigma_in=4.0)
    output, clip, noise = (tiny.normal(seed, 3, 2, 4, 4, 3) for seed in range(3))
    sigma = jnp.array([0.01, 0.5, 20.0])
    wanted = edm.loss(output, clip, noise, sigma)
    found = parity.losses(edm, *map(tensor, (output, clip, noise, sigma)))
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-4)
