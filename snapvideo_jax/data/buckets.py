"""Assigns files to the sizes of batches (buckets) by aspect ratio and duration.

A file's size and duration come from its metadata (``height``, ``width`` and, for a
video, ``frames`` with ``fps``, or ``duration`` in seconds with ``fps``), or else from
the file itself, which is probed before the run starts.
"""

import functools
import itertools
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from math import log

import numpy as np
from jaxtyping import Int

from snapvideo_jax.data.config import ClipSize
from snapvideo_jax.data.container import UnusableClip
from snapvideo_jax.data.image import image_size
from snapvideo_jax.data.mixture import Member
from snapvideo_jax.data.sources import FilteredOut, Source
from snapvideo_jax.data.unusable import Skipped
from snapvideo_jax.data.video import ClipInfo, probe
from snapvideo_jax.io.captions import Fields, Kind

MAX_PROBED = 20_000
"""Limit of the files of a data set that are probed for lack of metadata."""

logger = logging.getLogger(__name__)


def matching_sizes(
    sizes: Sequence[ClipSize], kind: Kind, info: ClipInfo, max_fps: float = 0.0
) -> list[int]:
    """Indices of the sizes that a file is assigned to.

    These are the nearest in aspect ratio (by the logarithm) among the sizes for which
    the file has enough frames. Of several as near, a video is assigned to the one with
    most frames, then to the first; an image has any duration and is assigned to all.

    Args:
        sizes: to choose from.
        kind, info: of the file.
        max_fps: highest rate at which frames are sampled, in 1/s; 0 for the file's.
    """
    aspect, held = log(info.width / info.height), info.frames
    if max_fps:
        held = min(held, int(info.duration * max_fps + 1e-6) + 1)
    filled = [
        number
        for number, (frames, _, _) in enumerate(sizes)
        if kind == "image" or frames <= held
    ]
    far = {
        number: round(abs(log(sizes[number][2] / sizes[number][1]) - aspect), 9)
        for number in filled
    }
    nearest = [number for number in filled if far[number] == min(far.values())]
    if kind == "image":
        return nearest
    return sorted(nearest, key=lambda number: -sizes[number][0])[:1]


def info_from_fields(kind: Kind, fields: Fields) -> ClipInfo | None:
    """Size and timing from the metadata of a file; None where some are missing."""

    def number(name: str) -> float:
        value = fields.get(name)
        good = isinstance(value, int | float) and not isinstance(value, bool)
        return value if good and value > 0 else 0

    height, width = round(number("height")), round(number("width"))
    frames, fps, duration = number("frames"), number("fps"), number("duration")
    if not (height and width):
        return None
    if kind == "image":
        return ClipInfo(1, 0.0, 0.0, height, width)
    if not fps or not (frames or duration):
        return None
    frames = round(frames or duration * fps + 1)
    return ClipInfo(frames, float(fps), (frames - 1) / fps, height, width)


def files_by_size(
    sizes: Sequence[ClipSize], member: Member, skipped: Skipped, threads: int
) -> list[Int[np.ndarray, "_"]]:
    """Indices of the files of a data set that are assigned to each size.

    Files that cannot be used are added to ``skipped``.

    Raises:
        ValueError: more than `MAX_PROBED` files have no metadata.
    """
    source, kind = member.source, member.source.kind
    headers = source.headers()
    headers = itertools.repeat({}, len(source)) if headers is None else headers
    infos = [info_from_fields(kind, fields) for fields in headers]
    unknown = [index for index, info in enumerate(infos) if info is None]
    where = f"{kind}s" + (f" of {member.name}" if member.name else "")
    if len(unknown) > MAX_PROBED:
        raise ValueError(
            f"data.buckets: no metadata give the size of {len(unknown)} of the "
            f"{len(infos)} {where}; write height, width, fps and frames into "
            "captions.jsonl, or use snapvideo prepare."
        )
    if unknown:
        logger.info("Probing the size of %d %s.", len(unknown), where)
    with ThreadPoolExecutor(max(threads, 1)) as pool:
        probed = pool.map(functools.partial(_probe_file, source), unknown)
        for index, (name, found) in zip(unknown, probed, strict=True):
            if isinstance(found, ClipInfo):
                infos[index] = found
            elif not isinstance(found, FilteredOut):
                skipped.add(kind, member.named(name), found, len(source))
    files: list[list[int]] = [[] for _ in sizes]
    for index, info in enumerate(infos):
        numbers = matching_sizes(sizes, kind, info, member.rates[1]) if info else ()
        for number in numbers:
            files[number].append(index)
    left = len(infos) - len(set(itertools.chain(*files)))
    summary = ", ".join(
        f"{len(each)} of {frames}x{height}x{width}"
        for each, (frames, height, width) in zip(files, sizes, strict=True)
    )
    logger.info("%s: %s; %d fit none.", where, summary, left)
    return [np.asarray(each, np.int64) for each in files]


def _probe_file(source: Source, index: int) -> tuple[str, ClipInfo | UnusableClip]:
    """Name of a file with its size and timing, or with why it cannot be used."""
    name = f"{source.kind} {index}"
    try:
        sample = source[index]
        name = sample.name
        if source.kind == "image":
            return name, ClipInfo(1, 0.0, 0.0, *image_size(sample.data))
        return name, probe(sample.data)
    except UnusableClip as error:
        return name, error
