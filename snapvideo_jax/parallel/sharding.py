"""Sharding: one mesh, and one table of rules from logical axes to mesh axes.

Parameters declare logical axes where they are created; optimizer state and EMA are
sharded like their parameter. Activations are constrained at the boundaries of blocks.
Models name logical axes only: `layout` sets the mesh while a function is traced.

    replica   slices of a pod, over the data-centre network; everything is replicated
    data      replicas within a slice
    fsdp      shards parameters, optimizer state and EMA; gathered where they are used
    context   shards groups of patches and their latents: one clip on several devices
    tensor    shards heads and hidden units
"""

import contextlib
import contextvars
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Shaped

AXES = ("replica", "data", "fsdp", "context", "tensor")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh axes.

    Attributes:
      replica: slices, over which the state is replicated.
      data: replicas within a slice; -1 takes the devices that the other axes leave.
      fsdp: shards of parameters, optimizer state and EMA.
      context: shards of the groups of one clip.
      tensor: shards of heads and hidden units.
    """

    replica: int = 1
    data: int = -1
    fsdp: int = 1
    context: int = 1
    tensor: int = 1


@dataclasses.dataclass(frozen=True)
class Rules:
    """Mesh axes that shard each logical axis; None replicates it.

    The two axes of a kernel are its input and its output. ``embed`` is an input from,
    and ``to_embed`` an output to, the token stream; ``from_mlp`` and ``from_heads`` are
    the inputs that match the outputs ``mlp`` and ``heads``. A ``table`` has a row for
    every token. fsdp always shards the first axis: TPUs tile the last one by 128, and
    sharding it would leave tiles half empty.
    """

    batch: tuple[str, ...] | None = ("replica", "data", "fsdp")
    table: tuple[str, ...] | None = ("context", "fsdp")
    groups: str | None = "context"
    latents: str | None = "context"
    rows: str | None = "context"
    embed: str | None = "fsdp"
    to_embed: str | None = None
    heads: str | None = "tensor"
    from_heads: tuple[str, ...] | None = ("tensor", "fsdp")
    mlp: str | None = "tensor"
    from_mlp: tuple[str, ...] | None = ("tensor", "fsdp")
    norm: str | None = None
    text: str | None = "fsdp"
    patch: str | None = None
    blocks: str | None = None

    def spec(self, names: Sequence[str | None]) -> PartitionSpec:
        """The mesh axes of an array whose axes have these logical names.

        Raises:
          ValueError: a name has no rule, or two names share a mesh axis.
        """
        known = {field.name for field in dataclasses.fields(self)}
        for name in names:
            if name is not None and name not in known:
                raise ValueError(
                    f"Logical axis {name!r} has no rule in sharding.Rules."
                )
        axes = [getattr(self, name) if name else None for name in names]
        used = [axis for entry in axes for axis in mesh_axes(entry)]
        if len(used) != len(set(used)):
            raise ValueError(f"Colliding mesh axes: {names} -> {axes}.")
        return PartitionSpec(*axes)


def make_mesh(
    config: MeshConfig, batch: int, devices: Sequence[Any] | None = None
) -> Mesh:
    """The mesh over all devices of all processes, or over ``devices`` of a topology.

    Raises:
      ValueError: the sizes do not fill the devices, or do not divide the batch.
    """
    devices = jax.devices() if devices is None else devices
    count = len(devices)
    sizes = dataclasses.asdict(config)
    for axis, size in sizes.items():
        if size < 1 and (axis, size) != ("data", -1):
            raise ValueError(f"mesh.{axis}={size} is too small; use at least 1.")
    others = math.prod(size for axis, size in sizes.items() if axis != "data")
    if count % others:
        chosen = {a: n for a, n in sizes.items() if a != "data" and n > 1}
        named = " x ".join(f"mesh.{axis}={size}" for axis, size in chosen.items())
        product = f" = {others}" if len(chosen) > 1 else ""
        fits = [n for n in range(1, count + 1) if count % n == 0]
        raise ValueError(
            f"{named}{product} does not divide the {count} devices; use one of {fits}."
        )
    if config.data == -1:
        sizes["data"] = count // others
    if math.prod(sizes.values()) != count:
        raise ValueError(
            f"mesh.data={sizes['data']} x {others} of the other axes is not the number "
            f"of devices, {count}; mesh.data=-1 takes all that are left."
        )
    parts = sizes["replica"] * sizes["data"] * sizes["fsdp"]
    if batch % parts:
        raise ValueError(
            f"The batch of {batch} (data.videos_per_batch + data.images_per_batch) is "
            f"not a multiple of the {parts} parts into which mesh.replica, data and "
            "fsdp shard it."
        )
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices > 1 and config.replica != slices:
        raise ValueError(
            f"mesh.replica={config.replica}, but there are {slices} slices; only the "
            f"replica axis may cross slices: use mesh.replica={slices}."
        )
    shape = tuple(sizes[axis] for axis in AXES)
    kinds = (AxisType.Auto,) * len(AXES)
    if slices > 1:
        placed = mesh_utils.create_hybrid_device_mesh(
            (1, *shape[1:]),
            (slices, *(1 for _ in shape[1:])),
            devices,
            allow_split_physical_axes=True,
        )
    else:
        placed = mesh_utils.create_device_mesh(
            shape, devices, allow_split_physical_axes=True
        )
    return Mesh(placed, AXES, axis_types=kinds)


# --- Layout of the function that is traced ------------------------------------------

_LAYOUT: contextvars.ContextVar[tuple[Mesh, Rules] | None] = contextvars.ContextVar(
    "layout", default=None
)


@contextlib.contextmanager
def layout(mesh: Mesh, rules: Rules = Rules()) -> Iterator[None]:  # noqa: B008
    """A context in which logical axes map to axes of ``mesh``."""
    token = _LAYOUT.set((mesh, rules))
    try:
        yield
    finally:
        _LAYOUT.reset(token)


def with_layout(function: Callable, mesh: Mesh, rules: Rules = Rules()) -> Callable:  # noqa: B008
    """``function``, traced within `layout`."""

    @functools.wraps(function)
    def within(*args, **kwargs):
        with layout(mesh, rules):
            return function(*args, **kwargs)

    return within


def current_layout() -> tuple[Mesh, Rules] | None:
    """The mesh and rules of the function being traced; None outside of `layout`."""
    return _LAYOUT.get()


def constrain(array: jax.Array, *names: str | None) -> jax.Array:
    """``array`` with a sharding constraint for axes of these logical names.

    An axis that its mesh axes do not divide stays whole. Outside of `layout` this does
    nothing.
    """
    if (found := current_layout()) is None:
        return array
    mesh, rules = found
    spec = _fitting(rules.spec(names), array.shape, mesh)
    return jax.lax.with_sharding_constraint(array, NamedSharding(mesh, spec))


def devices_along(name: str, size: int) -> int:
    """Number of shards of an axis of this logical name and size."""
    if (found := current_layout()) is None:
        return 1
    mesh, rules = found
    (entry,) = _fitting(rules.spec((name,)), (size,), mesh)
    return math.prod(mesh.shape[axis] for axis in mesh_axes(entry))


def gathered(parameter: jax.Array, *names: str | None) -> jax.Array:
    """A parameter, or its copy in another dtype, gathered along fsdp for use.

    The backward pass shards its gradient along fsdp immediately, so that the sum over
    devices becomes one reduce-scatter.
    """
    if (found := current_layout()) is None:
        return parameter
    mesh, rules = found
    divided = _fitting(rules.spec(names), parameter.shape, mesh)
    whole = PartitionSpec(
        *(tuple(a for a in mesh_axes(entry) if a != "fsdp") for entry in divided)
    )
    return _gather(parameter, NamedSharding(mesh, divided), NamedSharding(mesh, whole))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _gather(parameter, divided: NamedSharding, whole: NamedSharding):
    parameter = jax.lax.with_sharding_constraint(parameter, divided)
    return jax.lax.with_sharding_constraint(parameter, whole)


def _gather_forward(parameter, divided, whole):
    return _gather(parameter, divided, whole), None


def _gather_backward(divided, whole, residual, gradient):
    del whole, residual
    return (jax.lax.with_sharding_constraint(gradient, divided),)


_gather.defvjp(_gather_forward, _gather_backward)


def broadcast_over_batch(table: jax.Array, batch: int) -> jax.Array:
    """Learned vectors of tokens, repeated for every sample: ``n d`` to ``b n d``.

    The backward pass sums the gradient over the samples of a device, then over devices
    in one reduce-scatter of rows of 128 channels, so that every device receives whole
    tiles whatever the width. The compiler's own choice, or narrower rows, would be an
    all-reduce of the whole sum.
    """
    lane = math.gcd(table.shape[-1], 128)
    if _divides_along_fsdp(table.size // lane):
        return _broadcast_over_batch(table, batch, lane)
    whole = gathered(table, "table", None)
    return jnp.broadcast_to(whole, (batch, *table.shape))


def _divides_along_fsdp(rows: int) -> bool:
    if (found := current_layout()) is None:
        return False
    mesh, rules = found
    axes = rules.table or ()
    parts = math.prod(mesh.shape[axis] for axis in axes)
    return "fsdp" in axes and mesh.shape["fsdp"] > 1 and rows % parts == 0


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _broadcast_over_batch(table, batch: int, lane: int):
    rows = rearrange(table, "n (k v) -> (n k) v", v=lane)
    rows = gathered(rows, "table", None)
    whole = rearrange(rows, "(n k) v -> n (k v)", n=len(table))
    return jnp.broadcast_to(whole, (batch, *table.shape))


def _broadcast_over_batch_forward(table, batch, lane):
    return _broadcast_over_batch(table, batch, lane), None


def _broadcast_over_batch_backward(batch, lane, residual, gradient):
    del batch, residual
    mesh, rules = current_layout()
    tokens = tuple(axis for axis in rules.table if axis != "fsdp")

    @functools.partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=PartitionSpec(rules.batch, tokens),
        out_specs=PartitionSpec(rules.table),
        check_vma=False,
    )
    def summed(gradient):
        rows = gradient.sum(axis=0)
        rows = rearrange(rows, "n (k v) -> (n k) v", v=lane)
        rows = jax.lax.psum_scatter(rows, "fsdp", scatter_dimension=0, tiled=True)
        return jax.lax.psum(rows, tuple(a for a in rules.batch if a != "fsdp"))

    rows = summed(gradient)
    return (rearrange(rows, "(n k) v -> n (k v)", n=gradient.shape[1]),)


_broadcast_over_batch.defvjp(
    _broadcast_over_batch_forward, _broadcast_over_batch_backward
)


# --- Sharding of states and batches -------------------------------------------------


def state_shardings(boxed, mesh: Mesh | AbstractMesh, rules: Rules = Rules()):  # noqa: B008
    """Shardings of a state whose parameters carry logical axes, as from eval_shape.

    An axis that its mesh axes do not divide stays whole.
    """

    def sharding_of(leaf):
        if not isinstance(leaf, nn.LogicallyPartitioned):
            return NamedSharding(mesh, PartitionSpec())
        if not jax.tree.leaves(leaf.value):
            return leaf.value  # optax's placeholder for another optimizer's parameter
        spec = _fitting(rules.spec(leaf.names), leaf.value.shape, mesh)
        return NamedSharding(mesh, spec)

    return jax.tree.map(
        sharding_of,
        boxed,
        is_leaf=lambda leaf: isinstance(leaf, nn.LogicallyPartitioned),
    )


def with_shardings(shapes, shardings):
    """Shapes of a tree of arrays with their shardings, as the argument of a restore."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=sharding
        ),
        shapes,
        shardings,
    )


def batch_sharding(mesh: Mesh, rules: Rules = Rules()) -> NamedSharding:  # noqa: B008
    """The sharding of the batch axis over all devices."""
    return NamedSharding(mesh, rules.spec(("batch",)))


def local_rows(sharding: NamedSharding, batch: int) -> list[int]:
    """The rows of a batch that the devices of this process hold, in order.

    The devices of a process can be anywhere in the mesh, so the rows need not be
    contiguous, and several processes may hold, and load, the same rows.
    """
    places = sharding.addressable_devices_indices_map((batch,)).values()
    return sorted({row for (rows,) in places for row in range(batch)[rows]})


def round_up_to_devices(samples: int, mesh: Mesh) -> int:
    """``samples``, rounded up to a multiple of the devices of a mesh."""
    return -(-samples // mesh.size) * mesh.size


def to_host(batch: Shaped[Array, "b *s"]) -> Shaped[np.ndarray, "b *s"]:
    """A batch as a NumPy array, whole in every process."""
    if not batch.is_fully_addressable:  # other processes hold other rows
        batch = multihost_utils.process_allgather(batch, tiled=True)
    return np.asarray(batch)


def put_batch(batch, sharding: NamedSharding):
    """The global batch, from the rows that this process loaded."""
    return jax.tree.map(
        lambda leaf: jax.make_array_from_process_local_data(sharding, np.asarray(leaf)),
        batch,
    )


def put_key(seed: int, mesh: Mesh):
    """The PRNG key of a seed, replicated over all devices of all processes."""
    whole = NamedSharding(mesh, PartitionSpec())
    return jax.jit(jax.random.key, static_argnums=0, out_shardings=whole)(seed)


def bytes_per_device(shapes, shardings) -> int:
    """Bytes that one device holds of a tree of arrays."""
    leaves = zip(jax.tree.leaves(shapes), jax.tree.leaves(shardings), strict=True)
    return sum(
        int(np.prod(sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize
        for leaf, sharding in leaves
    )


def _fitting(spec: PartitionSpec, shape, mesh: Mesh | AbstractMesh) -> PartitionSpec:
    """``spec`` without the mesh axes that do not divide ``shape``."""

    def fit(entry, size):
        axes: tuple[str, ...] = ()
        for axis in mesh_axes(entry):
            parts = math.prod(mesh.shape[a] for a in (*axes, axis))
            if mesh.shape[axis] > 1 and size % parts == 0:
                axes += (axis,)
        return axes[0] if len(axes) == 1 else axes or None

    return PartitionSpec(*(fit(*pair) for pair in zip(spec, shape, strict=True)))


def mesh_axes(axes: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """The mesh axes of one entry of a partition spec."""
    return (axes,) if isinstance(axes, str) else axes or ()
