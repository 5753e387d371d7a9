"""Samples the clips of a protocol, in parts that can be resumed.

    OUT/protocol.json          settings of the protocol, the run and the sampler
    OUT/POINT/00012.png        a clip, lossless; .json has its settings
    OUT/POINT/manifest.jsonl   all clips of the point, once it is complete

A clip's noise depends on the seed and its index alone, not on its part or the number of
machines, and the points of a sweep share noise and prompts.
"""

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
    protocol_of,
    select_points,
)
from snapvideo_jax.io import media, saved_settings
from snapvideo_jax.io.files import write_atomically, write_json
from snapvideo_jax.io.progress import progress
from snapvideo_jax.parallel import coordinator
from snapvideo_jax.sampling import loading
from snapvideo_jax.sampling.generator import Generator, Request
from snapvideo_jax.sampling.guidance_options import about_guidance, guidance_of
from snapvideo_jax.sampling.options import (
    SamplerOptions,
    resolution_of,
    sampler_of,
    weights_of,
)

logger = logging.getLogger(__name__)

ABOUT = "protocol.json"
SWEPT = {"guidance": "guidances", "steps": "step_counts", "solver": "solvers"}
"""Options that a protocol may sweep, and its field of the values."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerateOptions(SamplerOptions):
    """Options of `snapvideo protocol generate`.

    The protocol's steps, solver, guidance and frame rate take the place of the config's
    for options that are None.

    Attributes:
      name: of the protocol.
      workdir: of the run.
      out: folder of the clips; processes share it.
      captions, classes: files of the prompts; see `prompts.entries`.
      num_samples: clips of each point; None is the protocol's.
      only: names of points of a sweep; None is all.
      part: (i, n) samples every n-th clip from the i-th on.
    """

    name: str
    workdir: Path
    out: Path
    captions: Path | None = None
    classes: Path | None = None
    num_samples: int | None = None
    only: tuple[str, ...] | None = None
    part: tuple[int, int] = (0, 1)

    def protocol(self) -> Protocol:
        """The protocol with the changes of the options.

        Raises:
          ValueError: it is unknown, or sweeps an option that is given.
        """
        protocol = protocol_of(self.name)
        changes: dict[str, Any] = {}
        for option, field in SWEPT.items():
            value = getattr(self, option)
            if value is None:
                continue
            if len(getattr(protocol, field)) > 1:
                raise ValueError(
                    f"--{option}={value} is what {protocol.name} sweeps; use --only "
                    "for some of its points."
                )
            changes[field] = (value,)
        for name in ("num_samples", "fps"):
            if getattr(self, name) is not None:
                changes[name] = getattr(self, name)
        return dataclasses.replace(protocol, **changes)


def generate(options: GenerateOptions) -> None:
    """Samples the missing clips of a part of a protocol.

    Raises:
      ValueError: options are invalid, or ``out`` was started with others; before
        anything is compiled.
    """
    protocol = options.protocol()
    points = select_points(protocol, options.only)
    wanted = entries(protocol, protocol.num_samples, options.captions, options.classes)
    sampler = PointSampler(options, protocol)
    saved_settings.begin(
        options.out / ABOUT,
        sampler.settings(wanted),
        f"--out={options.out}",
        is_writer=jax.process_index() == 0,
    )
    part, parts = options.part
    for point in points:
        folder = options.out / point.name
        sampler.fill(point, folder, [x for x in wanted if x.index % parts == part])
        coordinator.barrier(f"sampled {point.name}")
        if jax.process_index() == 0:
            _finish(folder, wanted, options.seed)


class PointSampler:
    """Samples the clips of a protocol's points with a run; loads the run.

    Args:
      options: of the command.
      protocol: as from ``options.protocol()``.
    """

    def __init__(self, options: GenerateOptions, protocol: Protocol):
        self._options, self._protocol = options, protocol
        self._experiment, self._params, self._step, self._mesh = loading.load(
            options.workdir, options.ema, options.ema_profile
        )
        asked = protocol.resolution
        self._resolution = asked if any(asked) else resolution_of(self._experiment)
        self._generators: dict[Sampler, Generator] = {}

    def settings(self, wanted: Sequence[Entry]) -> dict[str, Any]:
        """The settings that all parts of all points must share."""
        model = self._experiment.model
        digest = hashlib.sha256(json.dumps(wanted).encode()).hexdigest()[:16]
        guidance = about_guidance(self._guided(0.0), self._options, 0.0)
        return {
            "protocol": self._protocol.described(),
            "entries": digest,
            "seed": self._options.seed,
            "workdir": str(self._options.workdir),
            "step": self._step,
            "weights": weights_of(self._options),
            "clip": [model.frames, model.height, model.width],
            "churn": self._sampler(self._protocol.points()[0]).churn,
            "guidance": guidance["guidance_settings"],
            "autoguide": self._options.autoguide,
        }

    def fill(self, point: Point, folder: Path, mine: Sequence[Entry]) -> None:
        """Samples those of the entries that the folder lacks; process 0 writes them."""
        missing = [each for each in mine if not _note(folder, each.index).is_file()]
        digest = hashlib.sha256(json.dumps(missing).encode()).hexdigest()[:16]
        shared = "--out has to be a folder that all processes share"
        coordinator.assert_equal(f"The missing clips of {point.name}", digest, shared)
        coordinator.barrier(f"listed {point.name}")
        if len(missing) < len(mine):
            done = len(mine) - len(missing)
            logger.info("%s: %d of %d clips are complete.", point.name, done, len(mine))
        batch = self._options.batch
        groups = [missing[at : at + batch] for at in range(0, len(missing), batch)]
        is_writer = jax.process_index() == 0
        for group in progress(
            groups, len(groups), name=f"{point.name}: batch", is_writer=is_writer
        ):
            clips = self._clips(point, group, min(batch, len(mine)))
            for entry, clip in zip(group, clips, strict=True) if is_writer else ():
                self._write(point, folder, entry, clip)

    def _clips(self, point: Point, group: Sequence[Entry], batch: int) -> np.ndarray:
        """The clips of a group, padded to ``batch`` so that nothing recompiles."""
        padded = [*group, *[group[-1]] * (batch - len(group))]
        request = Request(
            prompts=[entry.prompt for entry in padded],
            numbers=[entry.index for entry in padded],
            seed=self._options.seed,
            guidance=point.guidance,
            fps=self._protocol.fps,
            resolution=self._resolution,
        )
        return self._generator(point)(self._params, request)[: len(group)]

    def _generator(self, point: Point) -> Generator:
        """The compiled generator of a point's sampler; the last one is cached."""
        sampler, guided = self._sampler(point), self._guided(point.guidance)
        if sampler not in self._generators:
            guide = loading.load_guide(guided, self._options, self._mesh)
            self._generators = {sampler: Generator(guided, sampler, self._mesh, guide)}
        return self._generators[sampler]

    def _sampler(self, point: Point) -> Sampler:
        sampler = sampler_of(self._experiment, self._options)
        return dataclasses.replace(sampler, steps=point.steps, solver=point.solver)

    def _guided(self, weight: float):
        # Options that need a weight are refused only if no point has one.
        weight = weight or max(self._protocol.guidances)
        return guidance_of(self._experiment, self._options, weight)

    def _write(self, point: Point, folder: Path, entry: Entry, clip) -> None:
        """Writes a clip, then its note: a clip with a note is complete."""
        media.write_clip(
            folder / f"{entry.index:05d}", clip, self._protocol.fps, ("png",)
        )
        about = {
            "prompt": entry.prompt,
            "number": entry.index,
            "class": entry.label,
            "seed": self._options.seed,
            "guidance": point.guidance,
            "guidance_1_plus_g": 1 + point.guidance,
            "fps": self._protocol.fps,
            "resolution": list(self._resolution),
            "sampler": dataclasses.asdict(self._sampler(point)),
            "workdir": str(self._options.workdir),
            "step": self._step,
            "version": __version__,
        }
        write_json(_note(folder, entry.index), about)


def _note(folder: Path, index: int) -> Path:
    return folder / f"{index:05d}.json"


def _finish(folder: Path, wanted: Sequence[Entry], seed: int) -> None:
    """Writes the manifest of a point if all of its clips are complete."""
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
    logger.info("%s: all %d clips are complete.", folder.name, len(wanted))
