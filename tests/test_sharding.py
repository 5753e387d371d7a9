"""Dividing a run over devices changes where things are, and no result."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import by_name, tiny_config
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

from snapvideo_jax import config as configs
from snapvideo_jax.parallel.sharding import (
    AXES,
    MeshConfig,
    Rules,
    batch_sharding,
    bytes_per_device,
    local_rows,
    make_mesh,
    put_batch,
    put_key,
    state_shardings,
)
from snapvideo_jax.sampling.generator import Generator, Request
from snapvideo_jax.state import abstract_state, fresh_state
from snapvideo_jax.step import jit_train_step

MESHES = {
    "data": MeshConfig(data=8),
    "fsdp": MeshConfig(data=1, fsdp=8),
    "data and fsdp": MeshConfig(data=2, fsdp=4),
    "context": MeshConfig(data=4, context=2),
    "context and fsdp": MeshConfig(fsdp=2, context=4),
    "tensor": MeshConfig(data=4, tensor=2),
    "tensor and fsdp": MeshConfig(data=1, fsdp=4, tensor=2),
    "replicas": MeshConfig(replica=2, data=2, fsdp=2),
    "all": MeshConfig(data=1, fsdp=2, context=2, tensor=2),
}
ONE = MeshConfig(data=1)


def mesh_of(config):
    """A mesh of as many devices as it takes."""
    sizes = dataclasses.asdict(config)
    others = np.prod([size for axis, size in sizes.items() if axis != "data"])
    count = others * (config.data if config.data > 0 else 8 // others)
    return make_mesh(config, batch=8, devices=jax.devices()[:count])


@functools.cache
def experiment(optimizer="lamb", stage=1):
    """The tiny run, without warm-up: its first step already moves."""
    changes = [f"optimizer.name={optimizer}", "optimizer.warmup_steps=0"]
    changes += ["training.label_dropout=0.5"]
    if stage == 2:
        changes += ["model.in_channels=6", "training.low_resolution=(7,8)"]
        changes += ["model.group_chunks=2"]
    return configs.build(tiny_config("nowhere", *changes))


def boxed_state(optimizer="lamb", stage=1):
    """Shapes of its state, with logical axes."""
    settings = experiment(optimizer, stage)
    return abstract_state(settings)


@functools.cache
def initial_state(stage):
    """A state that depends smoothly on its gradients, none of which is zero.

    A fresh FIT gives zeros whatever it does, and a fresh Adam the signs of gradients.
    """
    rng = np.random.default_rng(0)

    def shake(leaf):
        return np.asarray(leaf) + 0.3 * rng.normal(size=leaf.shape).astype(np.float32)

    def fill(path, leaf):
        is_second_moment = ".nu" in jax.tree_util.keystr(path)
        return np.full(leaf.shape, 1e-4 if is_second_moment else 0, leaf.dtype)

    state = jax.jit(lambda: nn.unbox(fresh_state(experiment(stage=stage))))()
    params = jax.tree.map(shake, state.params)
    return state.replace(
        step=np.zeros((), np.int32),
        params=params,
        opt_state=jax.tree_util.tree_map_with_path(fill, state.opt_state),
        ema=jax.tree.map(np.copy, params),
    )


def batch():
    rng = np.random.default_rng(1)
    data, text = experiment().data, experiment().text
    size = (data.batch, data.frames, data.height, data.width, 3)
    is_image = np.arange(data.batch) % 4 == 3
    return {
        "video": rng.integers(256, size=size, dtype=np.uint8),
        "frame_interval": np.where(is_image, 0, 0.125).astype(np.float32),
        "resolution": np.full((data.batch, 2), 64, np.float32),
        "text": rng.normal(size=(data.batch, text.tokens, text.width)).astype("f"),
        "text_mask": np.arange(text.tokens) < rng.integers(1, 5, (data.batch, 1)),
        "sample": np.arange(data.batch, dtype=np.uint32) + 40,
    }


@functools.cache
def one_step(config, stage):
    """State and metrics after a step on a mesh, laid out as training lays them out."""
    mesh, settings = mesh_of(config), experiment(stage=stage)
    places = state_shardings(boxed_state(stage=stage), mesh)
    # The step takes its state over, and this one is kept for all meshes.
    state = jax.device_put(jax.tree.map(np.copy, initial_state(stage=stage)), places)
    step = jit_train_step(settings, mesh, places)
    return step(state, put_batch(batch(), batch_sharding(mesh)), jax.random.key(3))


# --- Rules ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, axes",
    [("batch", ("replica", "data", "fsdp")), ("embed", "fsdp"), ("text", "fsdp")]
    + [(name, "context") for name in ("groups", "latents", "rows")]
    + [("table", ("context", "fsdp"))]
    + [(name, "tensor") for name in ("heads", "mlp")]
    + [(name, ("tensor", "fsdp")) for name in ("from_heads", "from_mlp")]
    + [(name, None) for name in ("to_embed", "norm", "patch", "blocks")],
)
def test_every_logical_axis_has_its_mesh_axes(name, axes):
    assert Rules().spec((name,)) == PartitionSpec(axes)
    assert Rules().spec((None, name)) == PartitionSpec(None, axes)


def test_every_axis_of_the_model_has_a_rule():
    leaves = jax.tree.leaves(
        boxed_state().params,
        is_leaf=lambda leaf: isinstance(leaf, nn.meta.AxisMetadata),
    )
    used = {name for leaf in leaves for name in leaf.names}
    of_activations = {"batch", "groups", "latents", "rows"}
    assert used - {None} == set(Rules.__dataclass_fields__) - of_activations


def test_an_axis_without_a_rule_is_refused():
    with pytest.raises(ValueError, match="Logical axis 'width' has no rule"):
        Rules().spec(("embed", "width"))


def test_two_axes_on_one_mesh_axis_are_refused():
    with pytest.raises(ValueError, match=r"Colliding mesh axes: \('embed', 'mlp'\)"):
        Rules(mlp="fsdp").spec(("embed", "mlp"))


def test_a_mesh_axis_inside_a_pair_collides_too():
    with pytest.raises(ValueError, match="Colliding mesh axes"):
        Rules().spec(("batch", "embed"))


# --- The mesh ------------------------------------------------------------------------


@pytest.mark.parametrize("name", MESHES)
def test_a_mesh_takes_all_devices(name):
    config = MESHES[name]
    wanted = dataclasses.asdict(config)
    mesh = make_mesh(config, 16)
    assert mesh.size == 8 and mesh.axis_names == AXES == tuple(wanted)
    assert all(mesh.shape[a] == size for a, size in wanted.items() if size > 0)


@pytest.mark.parametrize(
    "config, batch, message",
    [
        (
            MeshConfig(fsdp=3),
            8,
            r"mesh.fsdp=3 does not divide the 8 devices; use one of \[1, 2, 4, 8\]",
        ),
        (
            MeshConfig(fsdp=4, tensor=4),
            8,
            r"mesh.fsdp=4 x mesh.tensor=4 = 16 does not divide.*\[1, 2, 4, 8\]",
        ),
        (MeshConfig(fsdp=0), 8, "mesh.fsdp=0 is too small; use at least 1"),
        (MeshConfig(data=0, fsdp=8), 16, "mesh.data=0 is too small"),
        (
            MeshConfig(data=4, fsdp=4),
            16,
            "mesh.data=4 x 4 of the other axes is not the number of devices, 8",
        ),
        (MeshConfig(), 12, "batch of 12 .*not a multiple of the 8 parts"),
        (MeshConfig(context=2), 6, "batch of 6 .*not a multiple of the 4 parts"),
    ],
)
def test_a_mesh_that_cannot_be_is_refused(config, batch, message):
    with pytest.raises(ValueError, match=message):
        make_mesh(config, batch)


def test_only_the_replica_axis_crosses_slices():
    class Device:
        def __init__(self, slice_index):
            self.slice_index = slice_index

    devices = [Device(number // 2) for number in range(4)]
    with pytest.raises(ValueError, match="there are 2 slices; .*mesh.replica=2"):
        make_mesh(MeshConfig(fsdp=4), batch=4, devices=devices)


def test_a_process_loads_the_rows_that_its_devices_hold():
    class Process(NamedSharding):
        """The view of a process that has devices 0, 1, 4 and 5 of 8."""

        def addressable_devices_indices_map(self, shape):
            places = self.devices_indices_map(shape)
            ours = [jax.devices()[number] for number in (0, 1, 4, 5)]
            return {device: places[device] for device in ours}

    over_batch = Process(mesh_of(MESHES["data and fsdp"]), Rules().spec(("batch",)))
    assert local_rows(over_batch, 8) == [0, 1, 4, 5]
    assert local_rows(over_batch, 16) == [0, 1, 2, 3, 8, 9, 10, 11]
    over_data = Process(mesh_of(MESHES["data and fsdp"]), PartitionSpec("data"))
    assert local_rows(over_data, 4) == [0, 1, 2, 3]
    assert local_rows(batch_sharding(mesh_of(MESHES["data and fsdp"])), 8) == list(
        range(8)
    )


def test_a_key_is_the_same_on_every_device():
    key = put_key(7, mesh_of(MESHES["data and fsdp"]))
    assert key.sharding.is_fully_replicated and len(key.sharding.device_set) == 8
    assert (jax.random.key_data(key) == jax.random.key_data(jax.random.key(7))).all()


# --- Where the state lies ------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["lamb", "adam", "muon"])
def test_moments_and_ema_lie_where_their_parameter_lies(optimizer):
    mesh = mesh_of(MESHES["all"])
    boxed = boxed_state(optimizer)
    places = state_shardings(boxed, mesh)
    of_param = {
        jax.tree_util.keystr(path): (place.spec, shape.shape)
        for (path, place), shape in zip(
            jax.tree_util.tree_leaves_with_path(places.params),
            jax.tree.leaves(nn.unbox(boxed.params)),
            strict=True,
        )
    }
    assert {p: s for p, (s, _) in of_param.items()} == {
        jax.tree_util.keystr(path): place.spec
        for path, place in jax.tree_util.tree_leaves_with_path(places.ema)
    }
    moments = 0
    for path, place in jax.tree_util.tree_leaves_with_path(places.opt_state):
        tails = (jax.tree_util.keystr(path[start:]) for start in range(len(path)))
        name = next((tail for tail in tails if tail in of_param), None)
        assert place.spec == (of_param[name][0] if name else PartitionSpec())
        moments += name is not None
    # Muon keeps one moment of the kernels, the others two of everything.
    kernels = sum("'kernel'" in name for name in of_param)
    assert moments == 2 * len(of_param) - (kernels if optimizer == "muon" else 0)


def test_fsdp_divides_every_kernel_but_the_narrow_patches_and_pixels():
    boxed = boxed_state().params
    mesh = mesh_of(MESHES["data and fsdp"])
    places = by_path(state_shardings(boxed, mesh))
    for name, place in places.items():
        divided = "fsdp" in jax.tree.leaves(tuple(place.spec))
        assert divided or "kernel" not in name, name


def by_path(tree, leaf_type=()):
    leaves = jax.tree_util.tree_leaves_with_path(
        tree, is_leaf=lambda leaf: isinstance(leaf, leaf_type)
    )
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def test_an_axis_that_does_not_divide_stays_whole():
    shapes = {"odd": (6, 4), "even": (8, 4)}
    boxed = {
        name: nn.LogicallyPartitioned(
            jax.ShapeDtypeStruct(shape, jnp.float32), ("embed", "mlp")
        )
        for name, shape in shapes.items()
    }
    places = state_shardings(boxed, mesh_of(MESHES["data and fsdp"]))
    assert places["odd"].spec == PartitionSpec(None, None)
    assert places["even"].spec == PartitionSpec("fsdp", None)
    plain = nn.unbox(boxed)
    assert bytes_per_device(plain, places) == 4 * (6 * 4 + 8 // 4 * 4)


def test_memory_per_device_falls_as_fsdp_grows():
    boxed = boxed_state()
    shapes = nn.unbox(boxed)
    held = [
        bytes_per_device(
            shapes,
            state_shardings(boxed, AbstractMesh((1, 8 // fsdp, fsdp, 1, 1), AXES)),
        )
        for fsdp in (1, 2, 4, 8)
    ]
    assert held[0] == sum(leaf.nbytes for leaf in map(zeros, jax.tree.leaves(shapes)))
    assert held == sorted(held, reverse=True) and held[-1] < held[0] / 3


def zeros(leaf):
    return np.zeros(leaf.shape, leaf.dtype)


# --- The step ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, stage",
    [
        pytest.param(name, stage, marks=() if name == "all" else pytest.mark.slow)
        for name, stage in [*((name, 1) for name in MESHES), ("context and fsdp", 2)]
    ],
)
def test_a_step_is_the_same_on_any_mesh(name, stage):
    assert experiment(stage=stage).model.dropout == 0.1
    assert experiment(stage=stage).training.self_conditioned == 4
    state, metrics = one_step(MESHES[name], stage=stage)
    reference, expected = one_step(ONE, stage=stage)
    for name in ("loss", "grad_norm"):
        np.testing.assert_allclose(metrics[name], expected[name], rtol=1e-5)
    np.testing.assert_array_equal(metrics["loss_count"], expected["loss_count"])
    before, ours, theirs = map(by_name, (initial_state(stage=stage), state, reference))
    for name, value in theirs.items():
        scale = np.abs(value).max()
        rtol = 1e-4 if name.startswith(".opt_state") else 1e-5
        np.testing.assert_allclose(
            ours[name], value, rtol=rtol, atol=rtol * scale, err_msg=name
        )
        if name.startswith(".params"):
            assert np.abs(value - before[name]).max() > 1e-4 * scale, name


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fsdp", "data and fsdp", "context and fsdp"])
def test_a_step_leaves_the_state_divided(name):
    config = MESHES[name]
    state, _ = one_step(config, stage=1)
    places = by_path(state_shardings(boxed_state(), mesh_of(config)))
    for name, leaf in by_path(state).items():
        assert leaf.sharding.is_equivalent_to(places[name], leaf.ndim), name
    latents = state.params["latents"]
    parts = config.fsdp * config.context
    assert latents.addressable_shards[0].data.size == latents.size // parts


# --- Sampling ------------------------------------------------------------------------


@functools.cache
def generator(config):
    """A generator on a mesh, and the parameters it takes."""
    mesh = mesh_of(config)
    places = state_shardings(boxed_state(), mesh).params
    params = jax.device_put(initial_state(stage=1).params, places)
    return Generator(experiment(), experiment().sampler, mesh), params


@functools.cache
def generated(config, numbers):
    """Clips of a seed by their numbers, with guidance."""
    generate, params = generator(config)
    request = Request(
        prompts=[f"clip {number}" for number in numbers],
        numbers=numbers,
        seed=5,
        guidance=1.5,
        fps=8.0,
        resolution=(64, 64),
    )
    return generate(params, request)


def assert_same_clips(ours, theirs):
    """Up to one step of 256, as sums may be taken in another order.

    Where the network is steep a pixel in some thousands goes further.
    """
    assert ours.shape == theirs.shape
    apart = np.abs(ours.astype(int) - theirs)
    assert np.mean(apart > 1) < 1e-3 and np.mean(apart > 0) < 3e-3


@pytest.mark.parametrize("name", ["data", "data and fsdp", "all"])
def test_clips_are_the_same_on_any_mesh(name):
    numbers = tuple(range(8))
    clips = generated(ONE, numbers)
    assert len({clip.tobytes() for clip in clips}) == 8
    assert np.ptp(clips, axis=(1, 2, 3, 4)).min() > 30
    assert_same_clips(generated(MESHES[name], numbers), clips)


@pytest.mark.parametrize("config", [ONE, MESHES["data"]])
def test_a_clip_is_the_same_alone_and_in_company(config):
    together = generated(config, tuple(range(8)))
    assert_same_clips(generated(config, (3,)), together[3:4])


def test_a_batch_that_fills_no_mesh_gives_the_clips_that_were_asked_for():
    clips = generated(MESHES["data"], (2, 4, 6))
    assert_same_clips(clips, generated(ONE, tuple(range(8)))[2:7:2])
