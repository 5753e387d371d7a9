"""Making the clips of a protocol, in parts that go on where they were stopped.

    OUT/protocol.json          the protocol, the run and the sampler, for all parts
    OUT/POINT/00012.png        a clip, without loss; .json beside it tells how it came
    OUT/POINT/manifest.jsonl   all clips of the point, once they are all there

A clip's noise depends on the seed and its index alone: neither the part it is in nor
the number of machines changes it, and points of a sweep share noise and prompts.
"""

import argparse
import dataclasses
import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from snapvideo_jax import __version__
from snapvideo_jax.diffusion import Sampler
from snapvideo_jax.evaluation.clips import MANIFEST
from snapvideo_jax.evaluation.protocols.prompts import Entry, entries
from snapvideo_jax.evaluation.protocols.settings import (
    Point,
    Protocol,
    chosen_points,
    protocol_of,
)
from snapvideo_jax.io import media, resume
from snapvideo_jax.io.files import write_atomically, write_json
from snapvideo_jax.io.options import check_least, part_of
from snapvideo_jax.io.progress import progress
from snapvideo_jax.parallel import coordinator
from snapvideo_jax.sampling import loading, options
from snapvideo_jax.sampling.generator import Generator, Request
from snapvideo_jax.sampling.guidance_options import about_guidance, guidance_of

logger = logging.getLogger(__name__)

ABOUT = "protocol.json"
SWEPT = {"guidance": "guidances", "steps": "step_counts", "solver": "solvers"}
"""Options that a sweep has values of its own for, and its field."""


def as_asked(arguments) -> Protocol:
    """A protocol with what the command line changes.

    Raises:
      ValueError: it is unknown, or an option is what it sweeps.
    """
    protocol = protocol_of(arguments.name)
    changes: dict[str, Any] = {}
    for option, field in SWEPT.items():
        value = getattr(arguments, option)
        if value is None:
            continue
        if len(getattr(protocol, field)) > 1:
            raise ValueError(
                f"--{option}={value} is what {protocol.name} sweeps; use --only for "
                "some of its points."
            )
        changes[field] = (value,)
    if arguments.num_samples is not None:
        changes["num_samples"] = arguments.num_samples
    if arguments.fps is not None:
        changes["fps"] = arguments.fps
    return dataclasses.replace(protocol, **changes)


def generate(arguments) -> None:
    """`snapvideo protocol generate`: what is missing of a part of the clips.

    Raises:
      ValueError: options make no sense, or the folder was begun with others; before
        anything is compiled.
    """
    check_least(arguments, options.LEAST)
    protocol = as_asked(arguments)
    points = chosen_points(protocol, arguments.only)
    part, parts = part_of(arguments.part)
    wanted = entries(
        protocol, protocol.num_samples, arguments.captions, arguments.classes
    )
    loaded = loading.load(Path(arguments.workdir), arguments.ema, arguments.ema_profile)
    maker = Maker(arguments, protocol, *loaded)
    resume.begin(
        Path(arguments.out) / ABOUT,
        maker.about(wanted),
        f"--out={arguments.out}",
        is_writer=jax.process_index() == 0,
    )
    for point in points:
        folder = Path(arguments.out) / point.name
        mine = [entry for entry in wanted if entry.index % parts == part]
        maker.fill(point, folder, mine)
        coordinator.barrier(f"made {point.name}")
        if jax.process_index() == 0:
            _finish(folder, wanted, arguments.seed)


class Maker:
    """Makes clips of a run; all that this package has of sampling is in here.

    Args:
      arguments: of the command line.
      protocol: as it was asked for.
      experiment, params, step, mesh: as from `sample.load`.
    """

    def __init__(self, arguments, protocol, experiment, params, step: int, mesh):
        self._arguments, self._protocol = arguments, protocol
        self._experiment, self._params = experiment, params
        self._step, self._mesh = step, mesh
        self._made: dict[Any, Any] = {}

    def about(self, wanted: Sequence[Entry]) -> dict[str, Any]:
        """What all parts of all points must have in common."""
        model = self._experiment.model
        digest = hashlib.sha256(json.dumps(wanted).encode()).hexdigest()[:16]
        return {
            "protocol": self._protocol.described(),
            "entries": digest,
            "seed": self._arguments.seed,
            "workdir": str(self._arguments.workdir),
            "step": self._step,
            "weights": options.weights_of(self._arguments),
            "clip": [model.frames, model.height, model.width],
            "churn": self._sampler(self._protocol.points()[0]).churn,
            "guidance": about_guidance(self._guided(0.0), self._arguments, 0.0)[
                "guidance_settings"
            ],
            "autoguide": self._arguments.autoguide,
        }

    def fill(self, point: Point, folder: Path, mine: Sequence[Entry]) -> None:
        """Makes those clips of a part that its folder lacks; process 0 writes them."""
        missing = [each for each in mine if not _note(folder, each.index).is_file()]
        digest = hashlib.sha256(json.dumps(missing).encode()).hexdigest()[:16]
        shared = "--out has to be a folder that all processes share"
        coordinator.assert_equal(f"The missing clips of {point.name}", digest, shared)
        coordinator.barrier(f"looked at {point.name}")
        if len(missing) < len(mine):
            done = len(mine) - len(missing)
            logger.info("%s: %d of %d clips are there.", point.name, done, len(mine))
        batch = self._arguments.batch
        groups = [missing[at : at + batch] for at in range(0, len(missing), batch)]
        is_writer = jax.process_index() == 0
        for group in progress(
            groups, len(groups), name=f"{point.name}: batch", is_writer=is_writer
        ):
            clips = self._clips(point, group, min(batch, len(mine)))
            for entry, clip in zip(group, clips, strict=True) if is_writer else ():
                self._write(point, folder, entry, clip)

    def _clips(self, point: Point, group: Sequence[Entry], batch: int) -> np.ndarray:
        """The clips of a group, which is filled up so that nothing compiles again."""
        padded = [*group, *[group[-1]] * (batch - len(group))]
        request = Request(
            prompts=[entry.prompt for entry in padded],
            numbers=[entry.index for entry in padded],
            seed=self._arguments.seed,
            guidance=point.guidance,
            fps=self._protocol.fps,
            resolution=self._resolution(),
        )
        return self._generator(point)(self._params, request)[: len(group)]

    def _generator(self, point: Point):
        """Compiled once for a sampler, whatever the weight."""
        sampler, guided = self._sampler(point), self._guided(point.guidance)
        if sampler not in self._made:
            guide = loading.load_guide(guided, self._arguments, self._mesh)
            self._made = {sampler: Generator(guided, sampler, self._mesh, guide)}
        return self._made[sampler]

    def _sampler(self, point: Point) -> Sampler:
        changed = vars(self._arguments) | {"steps": point.steps, "solver": point.solver}
        return options.sampler_of(self._experiment, argparse.Namespace(**changed))

    def _guided(self, weight: float):
        # Settings that need a weight are refused where all points have none.
        weight = weight or max(self._protocol.guidances)
        return guidance_of(self._experiment, self._arguments, weight)

    def _resolution(self) -> tuple[int, int]:
        asked = self._protocol.resolution
        return asked if any(asked) else options.resolution_of(self._experiment)

    def _write(self, point: Point, folder: Path, entry: Entry, clip) -> None:
        """A clip, then its note: what has a note is whole."""
        media.write_clip(
            folder / f"{entry.index:05d}", clip, self._protocol.fps, ("png",)
        )
        about = {
            "prompt": entry.prompt,
            "number": entry.index,
            "class": entry.label,
            "seed": self._arguments.seed,
            "guidance": point.guidance,
            "guidance_1_plus_g": 1 + point.guidance,
            "fps": self._protocol.fps,
            "resolution": list(self._resolution()),
            "sampler": dataclasses.asdict(self._sampler(point)),
            "workdir": str(self._arguments.workdir),
            "step": self._step,
            "version": __version__,
        }
        write_json(_note(folder, entry.index), about)


def _note(folder: Path, index: int) -> Path:
    return folder / f"{index:05d}.json"


def _finish(folder: Path, wanted: Sequence[Entry], seed: int) -> None:
    """Writes the manifest of a point, if no clip of it is missing."""
    missing = sum(not _note(folder, entry.index).is_file() for entry in wanted)
    if missing:
        logger.info("%s: %d clips are left to other parts.", folder.name, missing)
        return
    lines = [
        json.dumps(
            {
                "index": entry.index,
                "video": f"{entry.index:05d}.png",
                "prompt": entry.prompt,
                "class": entry.label,
                "seed": seed,
            }
        )
        for entry in wanted
    ]
    write_atomically(folder / MANIFEST, "\n".join([*lines, ""]).encode())
    logger.info("%s: all %d clips are there.", folder.name, len(wanted))
