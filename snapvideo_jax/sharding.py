"""Where arrays live: one mesh, one table from logical axes to mesh axes.

Parameters declare logical axes where they are created; optimizer state and EMA follow
their parameter. Activations follow from the batch.
"""

import dataclasses

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh axes.

    Attributes:
      data: devices that hold whole copies of the parameters; -1 takes all that fsdp
        leaves.
      fsdp: devices over which parameters, optimizer state and EMA are divided.
    """

    data: int = -1
    fsdp: int = 1


@dataclasses.dataclass(frozen=True)
class Rules:
    """Logical axis -> mesh axes it is divided over (None: every device has it all)."""

    batch: tuple[str, ...] | None = ("data", "fsdp")
    embed: str | None = "fsdp"
    heads: str | None = None
    mlp: str | None = None
    norm: str | None = None
    text: str | None = None
    patch: str | None = None
    groups: str | None = None
    patches: str | None = None
    latents: str | None = None
    blocks: str | None = None

    def spec(self, names: tuple[str | None, ...]) -> PartitionSpec:
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
        used = [axis for entry in axes for axis in _mesh_axes(entry)]
        if len(used) != len(set(used)):
            raise ValueError(f"Colliding mesh axes: {names} -> {axes}.")
        return PartitionSpec(*axes)


def make_mesh(config: MeshConfig, batch: int) -> Mesh:
    """The mesh over all devices of all processes.

    Raises:
      ValueError: sizes that do not fill the devices, or a batch they do not divide.
    """
    count = jax.device_count()
    if config.fsdp < 1 or count % config.fsdp:
        raise ValueError(
            f"mesh.fsdp={config.fsdp} does not divide the {count} devices; use one of "
            f"{[n for n in range(1, count + 1) if count % n == 0]}."
        )
    data = count // config.fsdp if config.data == -1 else config.data
    if data * config.fsdp != count:
        raise ValueError(
            f"mesh.data={data} x mesh.fsdp={config.fsdp} is not the {count} devices "
            "there are; mesh.data=-1 takes what is left."
        )
    if batch % count:
        raise ValueError(
            f"The batch of {batch} (data.videos_per_batch + data.images_per_batch) is "
            f"not a multiple of the {count} devices."
        )
    return jax.make_mesh((data, config.fsdp), AXES, axis_types=(AxisType.Auto,) * 2)


def state_shardings(boxed, mesh: Mesh | AbstractMesh, rules: Rules = Rules()):  # noqa: B008
    """Shardings of a state whose parameters carry logical axes, as from eval_shape.

    An axis that its mesh axes do not divide is left whole.
    """

    def place(leaf):
        if not isinstance(leaf, nn.LogicallyPartitioned):
            return NamedSharding(mesh, PartitionSpec())
        if not jax.tree.leaves(leaf.value):
            return leaf.value  # what optax leaves for another optimizer's parameter
        spec = rules.spec(leaf.names)
        axes = [
            axis if size % _devices(mesh, axis) == 0 else None
            for axis, size in zip(spec, leaf.value.shape, strict=True)
        ]
        return NamedSharding(mesh, PartitionSpec(*axes))

    return jax.tree.map(
        place, boxed, is_leaf=lambda leaf: isinstance(leaf, nn.LogicallyPartitioned)
    )


def placed(shapes, shardings):
    """Shapes of a tree of arrays with the sharding of each, as a restore wants them."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=sharding
        ),
        shapes,
        shardings,
    )


def batch_sharding(mesh: Mesh, rules: Rules = Rules()) -> NamedSharding:  # noqa: B008
    """The batch axis over all devices."""
    return NamedSharding(mesh, rules.spec(("batch",)))


def local_rows(sharding: NamedSharding, batch: int) -> list[int]:
    """The rows of a batch that the devices of this process hold, in order.

    A mesh may lay the devices of a process anywhere, so the rows need not be
    neighbours, and processes that hold the same rows load the same.
    """
    places = sharding.addressable_devices_indices_map((batch,)).values()
    return sorted({row for (rows,) in places for row in range(batch)[rows]})


def put_batch(batch, sharding: NamedSharding):
    """The global batch, from the rows of it that this process loaded."""
    return jax.tree.map(
        lambda leaf: jax.make_array_from_process_local_data(sharding, np.asarray(leaf)),
        batch,
    )


def put_key(seed: int, mesh: Mesh):
    """The random key of a seed, on every device; also on those of other processes."""
    whole = NamedSharding(mesh, PartitionSpec())
    return jax.jit(jax.random.key, static_argnums=0, out_shardings=whole)(seed)


def bytes_per_device(shapes, shardings) -> int:
    """Bytes of a tree of arrays that one device holds."""
    leaves = zip(jax.tree.leaves(shapes), jax.tree.leaves(shardings), strict=True)
    return sum(
        int(np.prod(sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize
        for leaf, sharding in leaves
    )


def _devices(mesh: Mesh | AbstractMesh, axes) -> int:
    return int(np.prod([mesh.shape[name] for name in _mesh_axes(axes)]))


def _mesh_axes(axes: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """The mesh axes of one entry of a partition spec."""
    return (axes,) if isinstance(axes, str) else axes or ()
