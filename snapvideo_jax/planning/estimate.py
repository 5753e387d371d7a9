"""Estimates, without compiling, of what a train step needs under a choice of settings.

A `Choice` is a mesh, a remat policy and a number of microbatches. The bytes of the
state are exact. Activations and times are rough: they only rank choices for
compilation, and are not reported as a plan.
"""

import dataclasses
import functools
import math
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import AbstractMesh
from ml_collections import ConfigDict

from snapvideo_jax import config as configs
from snapvideo_jax.models.flops import train_factor
from snapvideo_jax.parallel.chips import Chip
from snapvideo_jax.parallel.layout_report import checked_shardings
from snapvideo_jax.parallel.sharding import AXES, bytes_per_device
from snapvideo_jax.planning.target import Target
from snapvideo_jax.state import abstract_state

REMATS = ("none", "dots", "latent_dots", "layer", "block", "offload")
"""From the policy that saves most for the backward pass to that which saves least."""
FIELDS = {
    "remat": "model.remat",
    "microbatches": "training.microbatches",
    "fsdp": "mesh.fsdp",
    "context": "mesh.context",
    "tensor": "mesh.tensor",
}


@dataclasses.dataclass(frozen=True)
class Choice:
    """Values of the config fields that affect speed and memory only."""

    remat: str = "none"
    microbatches: int = 1
    fsdp: int = 1
    context: int = 1
    tensor: int = 1

    @classmethod
    def of(cls, config: ConfigDict) -> "Choice":
        """The choice of a config."""
        pairs = {name: field.split(".") for name, field in FIELDS.items()}
        return cls(**{name: config[part][key] for name, (part, key) in pairs.items()})

    def applied(self, config: ConfigDict) -> ConfigDict:
        """The config with this choice; the data axis takes the remaining devices."""
        changed = config.copy_and_resolve_references()
        fields = {field: self[name] for name, field in FIELDS.items()}
        changed.update_from_flattened_dict(fields | {"mesh.data": -1})
        return changed

    def mesh(self, target: Target, devices: int) -> dict[str, int]:
        """Sizes of all mesh axes; the data axis takes the remaining devices.

        Raises:
          ValueError: the other axes do not divide the devices.
        """
        others = target.slices * self.fsdp * self.context * self.tensor
        if devices % others:
            raise ValueError("the mesh does not divide the devices")
        sizes = {"replica": target.slices, "data": devices // others}
        return sizes | {axis: self[axis] for axis in ("fsdp", "context", "tensor")}

    def overrides(self, base: "Choice") -> list[str]:
        """Options of the command line that change ``base`` to this choice."""
        fields = {FIELDS[name]: self[name] for name in self.changed(base)}
        if any(field.startswith("mesh.") for field in fields):
            fields["mesh.data"] = -1
        return [f"--config.{field}={value}" for field, value in fields.items()]

    def changed(self, base: "Choice") -> list[str]:
        """Names of the fields that differ from ``base``."""
        return [name for name in FIELDS if self[name] != base[name]]

    def needs_as_much_as(self, other: "Choice") -> bool:
        """Whether it is certain to need at least as much memory as ``other``."""
        if {"fsdp", "context", "tensor"} & set(self.changed(other)):
            return False
        # Which of the last three policies saves least depends on the model.
        order = dict(zip(REMATS, (3, 2, 1, 0, 0, 0), strict=True))
        more = self.remat == other.remat or order[self.remat] > order[other.remat]
        return more and self.microbatches <= other.microbatches

    def __str__(self) -> str:
        axes = [f"{a} {n}" for a in ("fsdp", "context", "tensor") if (n := self[a]) > 1]
        mesh = ", ".join(axes) or "replicated"
        return f"{mesh}; remat {self.remat}, microbatches {self.microbatches}"

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """The estimated needs of one device under a choice.

    Attributes:
      state: bytes of parameters, optimizer, EMA and gradients; exact.
      activations: bytes saved for, or in use during, the backward pass.
      samples: of one microbatch; a whole number where the batch divides.
      seconds: of a step.
    """

    state: int
    activations: float
    samples: float
    seconds: float


class Estimator:
    """Estimates the train steps of a config for choices and topologies."""

    def __init__(self, config: ConfigDict):
        self._config = config
        # Choices do not change the shapes or logical axes of the state.
        self._experiment = configs.build(Choice().applied(config))

    def __call__(self, choice: Choice, target: Target, devices: int) -> Estimate:
        """Estimates one choice.

        Raises:
          ValueError: the choice or its mesh is invalid for the config.
        """
        sizes = choice.mesh(target, devices)
        experiment = configs.build(choice.applied(self._config))
        split = sizes["replica"] * sizes["data"] * sizes["fsdp"]
        batch, parts = experiment.data.batch, experiment.training.microbatches
        state, count = _state(self._experiment, tuple(sizes.values()))
        shards = sizes["context"] * sizes["tensor"]
        samples = batch / (split * parts)
        network = experiment.model.resource_estimate()
        return Estimate(
            state=state,
            activations=network.activations * samples / shards,
            samples=samples,
            seconds=_seconds(experiment, target.chip, sizes, count),
        )


@functools.lru_cache(maxsize=4)
def _boxed_state(experiment: configs.Experiment):
    """Shapes of the state, boxed with logical axes."""
    return abstract_state(experiment)


@functools.lru_cache(maxsize=4096)
def _state(experiment: configs.Experiment, sizes: tuple[int, ...]) -> tuple[int, int]:
    """Bytes of state and gradients on one device, and the number of parameters.

    Raises:
      ValueError: as `checked_shardings`.
    """
    boxed = _boxed_state(experiment)
    shardings = checked_shardings(boxed, AbstractMesh(sizes, AXES))
    shapes = nn.unbox(boxed)
    gradients = bytes_per_device(shapes.params, shardings.params)
    size = bytes_per_device(shapes, shardings) + gradients
    return size, sum(leaf.size for leaf in jax.tree.leaves(shapes.params))


def _seconds(experiment, chip: Chip, sizes: dict[str, int], count: int) -> float:
    """Seconds of computation and of communication that is seldom overlapped.

    Args:
      sizes: of the mesh axes.
      count: of parameters.
    """
    model, training = experiment.model, experiment.training
    devices = math.prod(sizes.values())
    samples = experiment.data.batch / devices
    passes = train_factor(training.self_conditioned_share)
    recomputed = {"none": 0.0, "dots": 0.02, "latent_dots": 0.1, "offload": 1.1}
    text, network = experiment.text, model.resource_estimate()
    flops = (
        sum(model.forward_flops(text.tokens, text.width).values())
        * (passes + recomputed.get(model.remat, 1.0))
        * samples
    )
    # Parameters are all-gathered in each pass, mostly overlapped, and gradients are
    # reduce-scattered; for shards that are not whole tiles of 16 rows, the compiler
    # uses all-reduces for both.
    fsdp, shards = sizes["fsdp"], sizes["tensor"] * sizes["context"]
    tiles = network.narrowest % (16 * fsdp) == 0
    times = training.microbatches * (1.2 if tiles else 8.0)
    sent = 2 * count / sizes["tensor"] * times * (fsdp - 1) / fsdp
    replicas = sizes["data"] * sizes["replica"]
    sent += 4 * count / (sizes["tensor"] * fsdp) * (replicas - 1) / replicas
    # The tensor axis sums tokens after attention and feed-forward; the context axis
    # gathers keys.
    exchanged = passes * network.exchanged * samples * shards
    sent += exchanged * 4 * (sizes["tensor"] > 1)
    sent += exchanged * 2 * (sizes["context"] > 1)
    rate = 2 * chip.torus_dims * chip.ici_gbps * 1e9
    return flops / (0.8 * chip.peak_tflops * 1e12) + sent / rate
