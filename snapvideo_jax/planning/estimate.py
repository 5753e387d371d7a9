"""What a choice of mesh and memory policy would need, guessed without compiling.

The bytes of the state are exact. Activations and times are rough: they order what is
worth compiling, and never appear as an answer. `Choice` is what may be chosen.
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
"""From what keeps most for the backward pass to what keeps least."""
FIELDS = {
    "remat": "model.remat",
    "microbatches": "training.microbatches",
    "fsdp": "mesh.fsdp",
    "context": "mesh.context",
    "tensor": "mesh.tensor",
}


@dataclasses.dataclass(frozen=True)
class Choice:
    """Values of the fields of a config that decide about speed and memory only."""

    remat: str = "none"
    microbatches: int = 1
    fsdp: int = 1
    context: int = 1
    tensor: int = 1

    @classmethod
    def of(cls, config: ConfigDict) -> "Choice":
        """That of a config."""
        pairs = {name: field.split(".") for name, field in FIELDS.items()}
        return cls(**{name: config[part][key] for name, (part, key) in pairs.items()})

    def applied(self, config: ConfigDict) -> ConfigDict:
        """The config with this choice; data takes the devices that are left."""
        changed = config.copy_and_resolve_references()
        fields = {field: self[name] for name, field in FIELDS.items()}
        changed.update_from_flattened_dict(fields | {"mesh.data": -1})
        return changed

    def mesh(self, target: Target, devices: int) -> dict[str, int]:
        """Sizes of all mesh axes; data takes the devices that are left.

        Raises:
          ValueError: the others do not divide the devices.
        """
        others = target.slices * self.fsdp * self.context * self.tensor
        if devices % others:
            raise ValueError("the mesh does not divide the devices")
        sizes = {"replica": target.slices, "data": devices // others}
        return sizes | {axis: self[axis] for axis in ("fsdp", "context", "tensor")}

    def overrides(self, base: "Choice") -> list[str]:
        """What the command line needs to get from another choice to this one."""
        fields = {FIELDS[name]: self[name] for name in self.changed(base)}
        if any(field.startswith("mesh.") for field in fields):
            fields["mesh.data"] = -1
        return [f"--config.{field}={value}" for field, value in fields.items()]

    def changed(self, base: "Choice") -> list[str]:
        """What differs from another choice."""
        return [name for name in FIELDS if self[name] != base[name]]

    def keeps_more(self, other: "Choice") -> bool:
        """Whether it surely needs as much memory as another choice, or more."""
        if {"fsdp", "context", "tensor"} & set(self.changed(other)):
            return False
        # Which of the last three keeps least depends on the model.
        order = dict(zip(REMATS, (3, 2, 1, 0, 0, 0), strict=True))
        more = self.remat == other.remat or order[self.remat] > order[other.remat]
        return more and self.microbatches <= other.microbatches

    def __str__(self) -> str:
        axes = [f"{a} {n}" for a in ("fsdp", "context", "tensor") if (n := self[a]) > 1]
        mesh = ", ".join(axes) or "whole copies"
        return f"{mesh}; remat {self.remat}, microbatches {self.microbatches}"

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What a choice is guessed to need of one device.

    Attributes:
      state: bytes of parameters, optimizer, EMA and gradients; exact.
      activations: bytes kept or in use during the backward pass.
      samples: of one microbatch; a whole number in a choice that makes sense.
      seconds: of a step.
    """

    state: int
    activations: float
    samples: float
    seconds: float


class Estimator:
    """Guesses what train steps of a config need, under choices and on topologies."""

    def __init__(self, config: ConfigDict):
        self._config = config
        # No choice changes the shapes of the state or their logical axes.
        self._experiment = configs.build(Choice().applied(config))

    def __call__(self, choice: Choice, target: Target, devices: int) -> Estimate:
        """A guess of what a choice needs.

        Raises:
          ValueError: the choice or its mesh cannot be used.
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
    """Shapes of a state, with logical axes."""
    return abstract_state(experiment)


@functools.lru_cache(maxsize=4096)
def _state(experiment: configs.Experiment, sizes: tuple[int, ...]) -> tuple[int, int]:
    """Bytes of the state and gradients in one device, and parameters in all.

    Raises:
      ValueError: a mesh of these sizes divides the state badly.
    """
    boxed = _boxed_state(experiment)
    places = checked_shardings(boxed, AbstractMesh(sizes, AXES))
    shapes = nn.unbox(boxed)
    gradients = bytes_per_device(shapes.params, places.params)
    size = bytes_per_device(shapes, places) + gradients
    return size, sum(leaf.size for leaf in jax.tree.leaves(shapes.params))


def _seconds(experiment, chip: Chip, sizes: dict[str, int], count: int) -> float:
    """Seconds of computation, and of communication that seldom is hidden.

    Args:
      sizes: of the mesh axes.
      count: of parameters.
    """
    model, training = experiment.model, experiment.training
    devices = math.prod(sizes.values())
    samples = experiment.data.batch / devices
    passes = train_factor(training.self_conditioned_share)
    again = {"none": 0.0, "dots": 0.02, "latent_dots": 0.1, "offload": 1.1}
    text, guess = experiment.text, model.resource_estimate()
    flops = (
        sum(model.forward_flops(text.tokens, text.width).values())
        * (passes + again.get(model.remat, 1.0))
        * samples
    )
    # Parameters are gathered in each pass, mostly unseen, and gradients scattered; into
    # parts that are no whole tiles of 16 rows, both are all-reduces.
    fsdp, shards = sizes["fsdp"], sizes["tensor"] * sizes["context"]
    tiles = guess.narrowest % (16 * fsdp) == 0
    times = training.microbatches * (1.2 if tiles else 8.0)
    sent = 2 * count / sizes["tensor"] * times * (fsdp - 1) / fsdp
    copies = sizes["data"] * sizes["replica"]
    sent += 4 * count / (sizes["tensor"] * fsdp) * (copies - 1) / copies
    # Tensor sums tokens after attention and feed-forward, context gathers keys.
    exchanged = passes * guess.exchanged * samples * shards
    sent += exchanged * 4 * (sizes["tensor"] > 1)
    sent += exchanged * 2 * (sizes["context"] > 1)
    rate = 2 * chip.torus_dims * chip.ici_gbps * 1e9
    return flops / (0.8 * chip.peak_tflops * 1e12) + sent / rate
