"""The endless sequence of videos and images that training goes through.

Sample ``i`` is a pure function of the seed and ``i``: which file, which moments of
it, which part of the picture. Steps, processes, threads and resumed runs therefore
see the same sequence, and nothing but a step number need be saved to go on from it.
"""

import contextlib
import dataclasses
import functools
import math
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int

from snapvideo_jax.data.config import DataConfig
from snapvideo_jax.data.image import sized_image
from snapvideo_jax.data.skipped import Skipped
from snapvideo_jax.data.sources import (
    KINDS,
    FolderSource,
    Kind,
    Sample,
    Source,
    check_caption,
)
from snapvideo_jax.data.transforms import as_video, frame_times, random_crop
from snapvideo_jax.data.video import Clip, DecodedClip, UnusableClip


class JointSource:
    """Random access to the global sequence of samples, ``data.batch`` to a step.

    Videos and images take fixed places in every batch, mixed as evenly as whole
    numbers allow: 2048 + 2048 alternate, 48 + 16 repeat three videos and an image.
    The k-th video of a run is number k of an endless row of shuffled epochs; images
    likewise. A file that cannot be used gives its place to the next one that can, in
    the order of the data set.

    Args:
        config: sizes, rates and amounts.
        sources: data of each kind; a kind of which batches hold none may be missing.
        seed: of shuffling, cropping and choice of moments, at least 0.
        skipped: where unusable files are noted.
    """

    def __init__(
        self,
        config: DataConfig,
        sources: Mapping[Kind, Source],
        seed: int,
        skipped: Skipped,
    ):
        self.config = config
        self._sources = dict(sources)
        self._seed = seed
        self._skipped = skipped
        self._cover = config.height, config.width
        self._cache = _DecodedFiles(config.cache_decoded_mb * 2**20)

    def __len__(self) -> int:
        """Samples are numbered with 32 bits: a million steps of 4096."""
        return 2**32

    def __getitem__(self, sample: int) -> dict[str, Any]:
        """One sample as `types.Batch` has it, with its caption in place of text.

        ``moved`` is how many places further its file lies than the first choice.

        Raises:
            ValueError: too many files cannot be used.
        """
        _, element = self._load(int(sample))
        return element

    def place(self, sample: int) -> tuple[Kind, int]:
        """Kind of a sample, and its number among the samples of this kind."""
        step, position = divmod(sample, self.config.batch)
        videos, images = self.config.videos_per_batch, self.config.images_per_batch
        units = math.gcd(videos, images)
        unit, rest = divmod(position, self.config.batch // units)
        if rest < videos // units:
            return "video", step * videos + unit * (videos // units) + rest
        rest -= videos // units
        return "image", step * images + unit * (images // units) + rest

    def listed_captions(self) -> list[str]:
        """Captions of the files that a folder lists; those of records are not known."""
        sources = self._sources.values()
        folders = (source for source in sources if isinstance(source, FolderSource))
        return [caption for folder in folders for caption in folder.captions]

    def first_index(self, sample: int) -> int:
        """Which file of its kind a sample is taken from, if that can be used."""
        kind, number = self.place(sample)
        length = len(self._sources[kind])
        epoch, position = divmod(number, length)
        return int(_epoch_order(length, self._seed, kind, epoch)[position])

    def read(self, sample: int) -> Sample:
        """The file that a sample is taken from, if it can be used."""
        kind, _ = self.place(sample)
        return self._sources[kind][self.first_index(sample)]

    def sample_caption(self, sample: int) -> tuple[str, str]:
        """Name of the file that a sample was taken from, and its caption."""
        file, _ = self._load(int(sample))
        return file.name, file.caption

    def _load(self, sample: int) -> tuple[Sample, dict[str, Any]]:
        """The first usable file in a sample's place, and what was made of it."""
        kind, number = self.place(sample)
        source, first = self._sources[kind], self.first_index(sample)
        for further in range(len(source)):
            index = (first + further) % len(source)
            # Each candidate begins with the same generator: what a sample is must
            # not depend on what was tried before it.
            rng = np.random.default_rng([self._seed, KINDS.index(kind), number])
            name = f"{kind} {index}"
            try:
                file, decoded = self._cache.get(kind, index) or (source[index], None)
                name = file.name
                self._skipped.refuse_slow(name)
                check_caption(file.caption)
                if decoded is None and self._cache.has_room():
                    decoded = self._decode(kind, index, file)
                element = self._take(kind, file, decoded, rng)
            except UnusableClip as error:
                self._skipped.add(kind, name, error, len(source))
                continue
            # Texts of one array would all take as much memory as the longest.
            caption = np.asarray(file.caption, object)
            element |= {"caption": caption, "moved": np.uint32(further)}
            return file, element | {"sample": np.uint32(sample)}
        raise ValueError(
            f"none of the {len(source)} {kind}s can be used; repair the files, or use "
            f"data.{kind}s_per_batch=0."
        )

    def _take(
        self,
        kind: Kind,
        file: Sample,
        decoded: DecodedClip | None,
        rng: np.random.Generator,
    ) -> dict[str, Any]:
        """Frames in the size of a batch, and what is said of them."""
        if kind == "image":
            clip = decoded or self._decode_image(file)
            video, interval = clip.frames, 0.0
        else:
            opened = contextlib.nullcontext(decoded) if decoded else self._open(file)
            with opened as clip:
                times, interval = frame_times(
                    rng,
                    clip.info,
                    self.config.frames,
                    self.config.min_fps,
                    self.config.max_fps,
                )
                video = clip.frames_at(times)
        video = np.ascontiguousarray(random_crop(rng, video, *self._cover))
        if kind == "image":
            video = as_video(video[0], self.config.frames)
        return {
            "video": video,
            "frame_interval": np.float32(interval),
            "resolution": np.asarray(file.resolution or clip.info.size, np.float32),
        }

    def _open(self, file: Sample) -> Clip:
        return Clip(file.data, self._cover, self.config.decode_seconds)

    def _decode_image(self, file: Sample) -> DecodedClip:
        return DecodedClip.of(*sized_image(file.data, self._cover))

    def _decode(self, kind: Kind, index: int, file: Sample) -> DecodedClip | None:
        """The whole file, kept for next time; None where not all of it decodes."""
        try:
            if kind == "image":
                decoded = self._decode_image(file)
            else:
                with self._open(file) as clip:
                    decoded = clip.decoded()
        except UnusableClip:
            # A damaged part is no loss for samples that lie outside of it.
            return None
        self._cache.put(kind, index, file, decoded)
        return decoded


class _DecodedFiles:
    """Decoded files, as many of those met first as fit; safe between threads.

    Files come back after an epoch, in another order, so turning out the oldest for
    the newest would keep each only until shortly before its use.
    """

    def __init__(self, limit_bytes: int):
        self._limit = limit_bytes
        self._files: dict[tuple[Kind, int], tuple[Sample, DecodedClip]] = {}
        self._bytes = 0
        self._lock = threading.Lock()

    def has_room(self) -> bool:
        return self._bytes < self._limit

    def get(self, kind: Kind, index: int) -> tuple[Sample, DecodedClip] | None:
        return self._files.get((kind, index))

    def put(self, kind: Kind, index: int, file: Sample, clip: DecodedClip) -> None:
        with self._lock:
            if (kind, index) in self._files:
                return
            size = self._bytes + clip.frames.nbytes
            if size > self._limit:
                self._limit = self._bytes  # full: decode only what is asked for
                return
            self._files[kind, index] = dataclasses.replace(file, data=b""), clip
            self._bytes = size

    def __getstate__(self) -> dict[str, Any]:
        return {"_limit": self._limit}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["_limit"])


@functools.lru_cache(maxsize=4)
def _epoch_order(
    length: int, seed: int, kind: Kind, epoch: int
) -> Int[np.ndarray, "n"]:
    """Numbers 0..length-1, shuffled anew every epoch."""
    # Grain's own shuffle needs no table, but 8 ms an index on a set of two files.
    words = [seed, len(KINDS) + KINDS.index(kind), epoch]
    return np.random.default_rng(words).permutation(length)
