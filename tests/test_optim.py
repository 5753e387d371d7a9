"""Optimizers against plain float64 NumPy, and the laws of schedule, EMA and Muon."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from snapvideo_jax.optim import (
    OPTIMIZERS,
    Optimizer,
    is_matrix,
    orthogonalize,
    scale_by_block_trust_ratio,
)
from snapvideo_jax.state import init_state

SHAPES = {
    ("dense", "kernel"): (3, 2),
    ("dense", "bias"): (2,),
    ("norm", "scale"): (3,),
    ("blocks", "mlp", "kernel"): (2, 4, 3),
    ("blocks", "mlp", "bias"): (2, 3),
}
"""A small tree; parameters under "blocks" are those of 2 blocks."""

SMALL = Optimizer(
    steps=10, learning_rate=0.1, warmup_steps=2, weight_decay=0.1, betas=(0.9, 0.99)
)


def random_flat(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    return {path: scale * rng.normal(size=shape) for path, shape in SHAPES.items()}


def tree(flat):
    nested = {}
    for path, value in flat.items():
        *parents, name = path
        place = nested
        for parent in parents:
            place = place.setdefault(parent, {})
        place[name] = jnp.asarray(value, jnp.float32)
    return nested


def flat(nested):
    return {
        tuple(key.key for key in path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(nested)
    }


def rate(optimizer, step):
    """Learning rate of a step, from 0."""
    if step < optimizer.warmup_steps:
        return optimizer.learning_rate * step / optimizer.warmup_steps
    length = optimizer.steps - optimizer.warmup_steps
    done = (step - optimizer.warmup_steps) / length
    return optimizer.learning_rate * (1 + np.cos(np.pi * done)) / 2


def clipped(grads, limit):
    norm = np.sqrt(sum((g**2).sum() for g in grads.values()))
    return {path: g * min(1, limit / norm) for path, g in grads.items()}


def trusted(path, update, param):
    """LAMB's trust ratio, once for a parameter, or for each of its blocks."""
    if path[0] != "blocks":
        return update * np.linalg.norm(param) / np.linalg.norm(update)
    blocks = zip(update, param, strict=True)
    return np.stack([u * np.linalg.norm(p) / np.linalg.norm(u) for u, p in blocks])


def reference(optimizer, params, all_grads, trust):
    """Adam's moments, decay of kernels, and LAMB's trust ratio where asked for."""
    first, second = optimizer.betas
    params, m, v = dict(params), dict.fromkeys(params, 0.0), dict.fromkeys(params, 0.0)
    for step, grads in enumerate(all_grads):
        for path, grad in clipped(grads, optimizer.clip_norm).items():
            m[path] = first * m[path] + (1 - first) * grad
            v[path] = second * v[path] + (1 - second) * grad**2
            mean = m[path] / (1 - first ** (step + 1))
            square = v[path] / (1 - second ** (step + 1))
            update = mean / (np.sqrt(square) + 1e-8)
            if path[-1] == "kernel":
                update = update + optimizer.weight_decay * params[path]
            if trust:
                update = trusted(path, update, params[path])
            params[path] = params[path] - rate(optimizer, step) * update
    return params


def optimized(optimizer, params, all_grads):
    transform, params = optimizer.transform(), tree(params)
    state = transform.init(params)
    for grads in all_grads:
        updates, state = transform.update(tree(grads), state, params)
        params = jax.tree.map(jnp.add, params, updates)
    return flat(params)


def assert_same(got, expected, rtol=1e-4, atol=1e-6):
    assert got.keys() == expected.keys()
    for path, value in expected.items():
        np.testing.assert_allclose(got[path], value, rtol, atol, err_msg=str(path))


@pytest.mark.parametrize("name", ["lamb", "adam"])
@pytest.mark.parametrize("clip_norm", [1.0, 100.0])
def test_the_optimizer_follows_its_definition(name, clip_norm):
    optimizer = dataclasses.replace(SMALL, name=name, clip_norm=clip_norm)
    params = random_flat(0)
    grads = [random_flat(seed, scale=0.1 * seed) for seed in range(1, 6)]
    got = optimized(optimizer, params, grads)
    assert_same(got, reference(optimizer, params, grads, trust=name == "lamb"))
    assert all(np.abs(got[path] - params[path]).max() > 0.01 for path in params)


def test_a_trust_ratio_belongs_to_one_block():
    transform = scale_by_block_trust_ratio()
    param = jnp.stack([jnp.full((2, 3), 1.0), jnp.full((2, 3), 100.0)])
    update = jnp.stack([jnp.full((2, 3), 0.1), jnp.full((2, 3), 7.0)])
    for name, expected in [("blocks", param), ("other", None)]:
        scaled, _ = transform.update({name: update}, (), {name: param})
        if expected is None:
            ratio = jnp.linalg.norm(param) / jnp.linalg.norm(update)
            expected = ratio * update
        np.testing.assert_allclose(scaled[name], expected, rtol=1e-5)


def test_a_parameter_that_is_zero_is_updated_without_a_trust_ratio():
    transform = scale_by_block_trust_ratio()
    update = {"a": jnp.ones(3), "blocks": jnp.ones((2, 3)), "b": jnp.zeros(2)}
    zeros = jax.tree.map(jnp.zeros_like, update) | {"b": jnp.ones(2)}
    scaled, _ = transform.update(update, (), zeros)
    assert all(map(jnp.array_equal, jax.tree.leaves(scaled), jax.tree.leaves(update)))


def test_only_kernels_decay():
    still = {path: np.zeros(shape) for path, shape in SHAPES.items()}
    params = random_flat(0)
    optimizer = dataclasses.replace(SMALL, name="adam", warmup_steps=0)
    got = optimized(optimizer, params, [still])
    for path, value in params.items():
        factor = 1 - 0.1 * 0.1 if path[-1] == "kernel" else 1.0
        np.testing.assert_allclose(got[path], factor * value, rtol=1e-5)


def test_kernels_are_the_matrices_of_a_network_boxed_or_not():
    model = tiny.fit()
    inputs = tiny.clip(model, 1), jnp.zeros(1), tiny.context(1), model.no_latents(1)
    key = jax.random.key(0)
    boxed = jax.eval_shape(lambda: model.init(key, *inputs)["params"])
    params = nn.unbox(boxed)
    matrices = is_matrix(params)
    assert jax.tree.leaves(is_matrix(boxed)) == jax.tree.leaves(matrices)
    no_matrices = ("null_text", "patch_position", "latents")
    assert not any(jax.tree.leaves([matrices.get(name) for name in no_matrices]))
    for path, matrix in jax.tree_util.tree_leaves_with_path(matrices):
        assert matrix == (path[-1].key == "kernel"), path


def test_gradients_are_clipped_to_their_global_norm():
    # LAMB and Adam hide a common factor of the first gradients, their moments do not.
    optimizer = dataclasses.replace(SMALL, clip_norm=2.0)
    for scale, factor in [(0.01, None), (50.0, 2.0)]:
        grads = random_flat(1, scale)
        norm = np.sqrt(sum((g**2).sum() for g in grads.values()))
        transform, params = optimizer.transform(), tree(random_flat(0))
        _, state = transform.update(tree(grads), transform.init(params), params)
        moments = [leaf for leaf in jax.tree.leaves(state) if leaf.ndim][: len(grads)]
        total = np.sqrt(sum(float((leaf**2).sum()) for leaf in moments))
        np.testing.assert_allclose(total, 0.1 * (factor or norm), rtol=1e-4)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_learning_rate_warms_up_and_falls_as_a_cosine(name):
    schedule = Optimizer(
        name=name, steps=110, warmup_steps=10, learning_rate=8.0
    ).schedule()
    table = {0: 0, 1: 0.8, 5: 4, 10: 8, 35: 6.8284, 60: 4, 85: 1.1716, 110: 0, 120: 0}
    for step, value in table.items():
        assert float(schedule(step)) == pytest.approx(value, abs=1e-3)


def test_without_warm_up_the_first_step_has_the_peak_rate():
    schedule = Optimizer(steps=10, warmup_steps=0, learning_rate=3.0).schedule()
    assert float(schedule(0)) == pytest.approx(3.0)


def test_an_average_forgets_half_in_its_half_life():
    optimizer = Optimizer(ema_half_life=40.0)
    average = 1.0
    for step in range(10_000, 10_040):
        decay = float(optimizer.ema_decay(jnp.array(step)))
        average = decay * average + (1 - decay) * 3.0
    assert average == pytest.approx(2.0, abs=1e-4)


def test_an_early_average_has_a_half_life_in_proportion_to_the_steps_done():
    optimizer = Optimizer(ema_half_life=6000.0, ema_rampup=0.09)
    for step, half_life in [(1, 0.09), (100, 9), (10_000, 900), (200_000, 6000)]:
        decay = optimizer.ema_decay(jnp.array(step))
        np.testing.assert_allclose(decay, 0.5 ** (1 / half_life), rtol=1e-5)


@pytest.mark.parametrize("shape", [(16, 16), (12, 40), (40, 12), (3, 8, 20)])
def test_muon_s_update_is_nearly_orthogonal_with_the_size_of_adam_s(shape):
    matrices = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
    (update,), _ = orthogonalize().update([matrices], ())
    single = np.asarray(update).reshape(-1, *shape[-2:])
    for matrix, original in zip(single, matrices.reshape(single.shape), strict=True):
        scaled = matrix / (0.2 * max(shape[-2:]) ** 0.5)
        values = np.linalg.svd(scaled, compute_uv=False)
        assert values.min() > 0.5 and values.max() < 1.3, values
        assert 0.13 < np.sqrt((matrix**2).mean()) < 0.24
        # It has the singular vectors of what it came from.
        left, _, right = np.linalg.svd(original, full_matrices=False)
        inner = left.T @ scaled @ right.T
        np.testing.assert_allclose(inner, np.diag(np.diag(inner)), atol=0.01)


def test_muon_treats_blocks_apart():
    matrices = jnp.asarray(np.random.default_rng(0).normal(size=(3, 8, 5)), jnp.float32)
    scaled = matrices * jnp.array([1.0, 10.0, 0.1])[:, None, None]
    (together,), _ = orthogonalize().update([scaled], ())
    for block, update in zip(matrices, together, strict=True):
        (alone,), _ = orthogonalize().update([block], ())
        np.testing.assert_allclose(update, alone, rtol=1e-3, atol=1e-4)


def test_muon_leaves_all_but_kernels_to_adam():
    params, grads = random_flat(0), [random_flat(1), random_flat(2)]
    settings = dataclasses.replace(SMALL, warmup_steps=0, weight_decay=0.0)
    muon = optimized(dataclasses.replace(settings, name="muon"), params, grads)
    adam = optimized(dataclasses.replace(settings, name="adam"), params, grads)
    for path in params:
        differs = np.abs(muon[path] - adam[path]).max() > 0.01
        assert differs == (path[-1] == "kernel"), path
    decayed = dataclasses.replace(settings, name="muon", weight_decay=0.1)
    decayed = optimized(decayed, params, grads[:1])
    plain = optimized(dataclasses.replace(settings, name="muon"), params, grads[:1])
    for path, value in params.items():
        change = -0.01 * value if path[-1] == "kernel" else 0 * value
        np.testing.assert_allclose(decayed[path] - plain[path], change, atol=1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_state_made_of_boxed_parameters_serves_unboxed_ones(name):
    model, optimizer = tiny.fit(), dataclasses.replace(SMALL, name=name)
    about = tiny.context(1)
    fields = ("text", "text_mask", "frame_interval", "resolution")
    batch = {field: getattr(about, field) for field in fields}
    batch["sample"] = jnp.zeros(1, jnp.uint32)

    def update():
        state = nn.unbox(init_state(model, optimizer, batch, jax.random.key(0)))
        args = (state.params, state.opt_state, state.params)
        return state.opt_state, optimizer.transform().update(*args)[1]

    before, after = jax.eval_shape(update)
    assert before == after


def test_an_unknown_optimizer_is_refused():
    with pytest.raises(ValueError, match="optimizer.name='sgd' is unknown; use one of"):
        Optimizer(name="sgd")


@pytest.mark.parametrize("warmup_steps", [-1, 10, 11])
def test_the_warm_up_must_end_before_training(warmup_steps):
    message = f"warmup_steps={warmup_steps} must be below optimizer.steps=10"
    with pytest.raises(ValueError, match=message):
        Optimizer(steps=10, warmup_steps=warmup_steps)
