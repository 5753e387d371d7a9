"""The loss on held-out clips, by noise level.

Noise levels are not sampled but spread evenly over the training distribution. The mean
is then the expectation of the training loss, and all runs use the same levels and the
same noise.
"""

import dataclasses
import functools
import itertools
import statistics
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from snapvideo_jax.data import make_joint_source, split_dataset
from snapvideo_jax.data.config import DataConfig
from snapvideo_jax.data.shapes import dataset
from snapvideo_jax.diffusion.edm import broadcast
from snapvideo_jax.diffusion.noise import fold_in, normal, sample_keys
from snapvideo_jax.parallel.sharding import (
    batch_sharding,
    local_rows,
    put_batch,
    put_key,
    to_host,
    with_layout,
)
from snapvideo_jax.sampling import loading
from snapvideo_jax.step import BIN_EDGES, NOISE, first_pass
from snapvideo_jax.types import context_of, embedded, pixels

GOLDEN_RATIO = (5**0.5 - 1) / 2
"""Fractional parts of its multiples are spread evenly, for any number of them."""


def held_out_shapes(root: Path) -> Path:
    """Generates scenes of the shapes data set with another seed than for training."""
    return dataset.build(root, seed=1, videos=256, images=128)


def validation_data(data: DataConfig, folder: Path) -> DataConfig:
    """The data section of a run, with the clips of a folder.

    Raises:
      ValueError: it holds neither ArrayRecord files nor captions.jsonl.
    """
    if any(folder.glob("*.array_record*")):
        source = "records"
    elif (folder / "captions.jsonl").is_file():
        source = "folder"
    else:
        raise ValueError(
            f"--validation={folder} holds neither .array_record files nor "
            "captions.jsonl; use a folder of clips that no run trains on."
        )
    changes = dict(source=source, root=str(folder), mixture={}, subset=0, filters="")
    return dataclasses.replace(data, **changes)


def validate(workdir: Path, folder: Path, samples: int) -> dict[str, Any]:
    """Validation losses of a run's EMA weights.

    Args:
      workdir: of the run.
      folder: of the clips.
      samples: minimum number, rounded up to whole batches.

    Returns:
      ``loss``, its standard error ``error``, the number of ``samples``, and the mean
      loss by kind and noise bin in ``bins``, named as in metrics.jsonl.

    Raises:
      ValueError: as `validation_data`, or the run has no checkpoint.
    """
    experiment, params, _, mesh = loading.load(workdir)
    data, over_batch = validation_data(experiment.data, folder), batch_sharding(mesh)
    joint = make_joint_source(data, seed=0)
    batches = split_dataset(
        joint,
        jax.process_index(),
        jax.process_count(),
        experiment.text,
        local_rows(over_batch, data.batch),
    )
    program = jax.jit(with_layout(functools.partial(_losses, experiment), mesh))
    embed, key = experiment.text.on_devices(mesh), put_key(1, mesh)
    columns: list[list[np.ndarray]] = [[], [], []]
    count = -(-samples // data.batch)
    for number, (rows, _) in enumerate(itertools.islice(iter(batches), count)):
        batch = embedded(put_batch(rows, over_batch), embed)
        places = np.arange(number * data.batch, (number + 1) * data.batch)
        sigma = noise_levels(experiment.diffusion, places)
        found = program(params, batch, jnp.asarray(sigma, jnp.float32), key)
        is_image = to_host(batch["frame_interval"]) == 0
        for column, part in zip(
            columns, (to_host(found), sigma, is_image), strict=True
        ):
            column.append(np.asarray(part))
    losses, sigma, is_image = map(np.concatenate, columns)
    return {
        "loss": float(losses.mean()),
        "error": float(losses.std(ddof=1) / len(losses) ** 0.5),
        "samples": len(losses),
        "bins": losses_by_noise_bin(losses, sigma, is_image),
    }


def noise_levels(edm, places: np.ndarray) -> np.ndarray:
    """Noise levels ``[b]`` at ``places`` of an even spread over those of training."""
    spread = statistics.NormalDist(edm.p_mean, edm.p_std)
    shares = (0.5 + GOLDEN_RATIO * np.asarray(places)) % 1
    return np.exp([spread.inv_cdf(share) for share in np.clip(shares, 1e-6, 1 - 1e-6)])


def losses_by_noise_bin(losses, sigma, is_image) -> dict[str, float]:
    """Mean loss by kind and noise bin; bins without samples are omitted."""
    edges = ("0", *map(str, BIN_EDGES), "inf")
    names = [f"sigma_{low}_to_{high}" for low, high in itertools.pairwise(edges)]
    where = np.searchsorted(BIN_EDGES, sigma)
    found = {}
    for kind, chosen in (("video", ~is_image), ("image", is_image)):
        for number, name in enumerate(names):
            inside = chosen & (where == number)
            if inside.any():
                found[f"{kind}/{name}"] = float(losses[inside].mean())
    return found


def _losses(experiment, params, batch, sigma, key):
    """Loss ``[b]`` of each sample at its noise level, without dropout."""
    model, edm = experiment.model, experiment.diffusion
    clip = pixels(batch["video"])
    eps = normal(fold_in(sample_keys(key, batch["sample"]), NOISE), clip.shape[1:])
    level = broadcast(sigma, clip)
    noisy = edm.c_in(level) * edm.corrupt(clip, eps, level)
    context = context_of(batch, jnp.zeros(sigma.shape, bool))
    about = noisy, edm.c_noise(sigma), context
    previous = first_pass(params, *about, model, experiment.training)
    output, _ = model.apply({"params": params}, *about, previous)
    return edm.loss(output, clip, eps, sigma)
