"""The verb `snapvideo plan`: what a config needs of a TPU topology, without the TPU.

The real train step is compiled for the topology, ahead of time, on any machine that
has libtpu. Memory, FLOPs and collectives are the compiler's; the step time is a
forecast from the scheduled program (`forecast`), not a measurement.
"""

import functools
import hashlib
import json
import logging
import os
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from snapvideo_jax import config as configs
from snapvideo_jax.chips import CHIPS, Chip
from snapvideo_jax.sample import abstract_state
from snapvideo_jax.sharding import (
    batch_sharding,
    bytes_per_device,
    check_replicated,
    laid_out,
    make_mesh,
    placed,
    state_shardings,
)
from snapvideo_jax.step import train_step

logger = logging.getLogger(__name__)


def topology_devices(name: str, slices: int = 1) -> tuple[list[Any], Chip]:
    """The devices of a topology such as "v5p:4x4x8", and the chip they are made of.

    Raises:
      ValueError: libtpu is not installed, or knows no such topology.
    """
    generation = name.partition(":")[0]
    if generation not in CHIPS:
        raise ValueError(
            f"--topology={name}: chip {generation!r} is unknown; use CHIP:SHAPE with a "
            f"chip of {sorted(CHIPS)}, as v5p:4x4x8."
        )
    try:
        metadata.version("libtpu")
    except metadata.PackageNotFoundError:
        raise ValueError(
            "libtpu is not installed, and it compiles for TPUs; "
            "pip install 'snapvideo_jax[tpu]'."
        ) from None
    # Without these libtpu looks for a TPU for minutes, and refuses a second process.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    options = {"num_slices": slices} if slices > 1 else {}
    try:
        found = topologies.get_topology_desc(
            platform="tpu", topology_name=name, **options
        )
    except Exception as error:  # libtpu raises what it likes
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"--topology={name} does not exist: {reason}. Shapes are sizes of the "
            "torus, as v5e:16x16, v6e:16x16 or v5p:4x4x8."
        ) from None
    return list(found.devices), CHIPS[generation]


def abstract_step(experiment: configs.Experiment, mesh):
    """The jitted train step of an experiment on a mesh, and shapes of its arguments."""
    boxed = jax.eval_shape(functools.partial(abstract_state, experiment))
    places = state_shardings(boxed, mesh)
    shapes = nn.unbox(boxed)
    check_replicated(shapes.params, places.params)
    over_batch, whole = batch_sharding(mesh), NamedSharding(mesh, PartitionSpec())
    step = jax.jit(
        laid_out(
            functools.partial(
                train_step,
                model=experiment.model,
                edm=experiment.diffusion,
                optimizer=experiment.optimizer,
                training=experiment.training,
            ),
            mesh,
        ),
        in_shardings=(places, over_batch, whole),
        out_shardings=(places, whole),
        donate_argnums=0,
    )
    key = jax.eval_shape(lambda: jax.random.key(0))
    batch = abstract_batch(experiment)
    arguments = (
        placed(shapes, places),
        placed(batch, jax.tree.map(lambda _: over_batch, batch)),
        jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=whole),
    )
    return step, arguments


def abstract_batch(experiment: configs.Experiment) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a global batch."""
    data, text, model = experiment.data, experiment.text, experiment.model
    shape = jax.ShapeDtypeStruct
    batch = data.batch
    size = (batch, data.frames, data.height, data.width, model.in_channels)
    return {
        "video": shape(size, jnp.uint8),
        "frame_interval": shape((batch,), jnp.float32),
        "resolution": shape((batch, 2), jnp.float32),
        "text": shape((batch, text.tokens, text.width), jnp.float32),
        "text_mask": shape((batch, text.tokens), jnp.bool_),
        "sample": shape((batch,), jnp.uint32),
    }
