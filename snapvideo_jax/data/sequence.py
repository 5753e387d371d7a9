"""The endless sequence of videos and images that a run trains on.

Sample ``i`` is a pure function of the seed and ``i``: the file, the times of its frames
and the crop. Steps, processes, threads and resumed runs therefore see the same
sequence, and a step number suffices to resume it.
"""

import contextlib
import dataclasses
import logging
import math
import threading
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from snapvideo_jax.data.buckets import files_by_size
from snapvideo_jax.data.config import ClipSize, DataConfig
from snapvideo_jax.data.container import UnusableClip
from snapvideo_jax.data.image import sized_image
from snapvideo_jax.data.mixture import Member, SizePool
from snapvideo_jax.data.rescale import Size
from snapvideo_jax.data.schedule import Schedule
from snapvideo_jax.data.sources import (
    FilteredOut,
    Sample,
    captions_in,
    captions_of_sample,
    check_caption,
)
from snapvideo_jax.data.transforms import as_video, frame_times, random_crop
from snapvideo_jax.data.unusable import Skipped
from snapvideo_jax.data.video import Clip, DecodedClip
from snapvideo_jax.io.captions import KINDS, Kind
from snapvideo_jax.types import LoadedSample

CAPTION_SECONDS = 20.0
"""Time limit for sampling the captions of a data set that does not list them."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SampleLocation:
    """Where a sample lies in the data.

    kind: of the sample.
    number: index of the sample among those of its kind.
    bucket: index of the batch's size in ``data.sizes``.
    member: data set of the sample.
    files: indices of the files of the data set that have this size.
    first: position in ``files`` of the first choice.
    """

    kind: Kind
    number: int
    bucket: int
    member: Member
    files: range | Int[np.ndarray, "n"]
    first: int


class JointSource:
    """Random access to the global sequence of samples, ``data.batch`` to a step.

    A `Schedule` of ``data.bucket_weights`` chooses the size of each step from
    ``data.sizes``. Videos and images have fixed positions in every batch, interleaved
    as evenly as whole numbers allow: 2048 + 2048 alternate, 48 + 16 repeat three videos
    and an image. Among the data sets that have videos of a size, a `Schedule` of their
    weights chooses the data set of the k-th video of this size; its file is the next in
    this data set's endless sequence of shuffled epochs of files of this size. Images
    likewise. An unusable file is replaced by the next usable one in the order of the
    data set. One of several captions is drawn at random.

    Args:
        config: sizes, rates and amounts.
        sources: data sets of each kind that a batch has.
        seed: of shuffling, cropping and sampling of times, at least 0.
        skipped: list of unusable files.

    Attributes:
        filtered: number of files that were read and then rejected by a filter, as
            counted by the training process.

    Raises:
        ValueError: a size has no file of a kind, or weights need too long a table.
    """

    def __init__(
        self,
        config: DataConfig,
        sources: Mapping[Kind, Sequence[Member]],
        seed: int,
        skipped: Skipped,
    ):
        self.config = config
        self.filtered = 0
        self._sources = dict(sources)
        self._seed = seed
        self._skipped = skipped
        self._cache = _DecodedFiles(config.cache_decoded_mb * 2**20)
        self._epochs = _Epochs(seed)
        self._buckets = Schedule(config.size_weights, "data.bucket_weights")
        self._pools = {
            kind: self._pools_of(kind, members) for kind, members in sources.items()
        }
        self._schedules = {
            kind: [pool.schedule() for pool in pools]
            for kind, pools in self._pools.items()
        }

    def __len__(self) -> int:
        """Samples are numbered with 32 bits: a million steps of 4,096."""
        return 2**32

    def __getitem__(self, sample: int) -> LoadedSample:
        """One sample.

        Raises:
            ValueError: too many files cannot be used.
        """
        _, element = self._load(int(sample))
        return element

    def place(self, sample: int) -> tuple[Kind, int]:
        """Kind of a sample, and its index among the samples of this kind."""
        step, position = divmod(sample, self.config.batch)
        kind, rest = self._place_in_batch(position)
        return kind, step * getattr(self.config, f"{kind}s_per_batch") + rest

    def location(self, sample: int) -> SampleLocation:
        """Where a sample lies in the data."""
        step, position = divmod(sample, self.config.batch)
        kind, rest = self._place_in_batch(position)
        each = getattr(self.config, f"{kind}s_per_batch")
        bucket, before = self._buckets[step]
        pool = self._pools[kind][bucket]
        who, turn = self._schedules[kind][bucket][before * each + rest]
        member, files = pool.members[who], pool.files[who]
        # The order of a single data set does not depend on names or buckets.
        extra = (zlib.crc32(member.name.encode()), bucket)
        words = len(KINDS) + KINDS.index(kind), *(extra if any(extra) else ())
        epoch, place = divmod(turn, len(files))
        first = int(self._epochs.order(words, len(files), epoch)[place])
        return SampleLocation(kind, step * each + rest, bucket, member, files, first)

    def size_of_step(self, step: int) -> ClipSize:
        """Frames, height and width of a step's batch."""
        return self.config.sizes[self._buckets[step][0]]

    def captions(self, seconds: float = CAPTION_SECONDS) -> Iterator[str]:
        """Captions that samples may have, found without decoding.

        These are all captions of a data set that lists them; of another, those of
        samples spread over all of it, as many as can be read in the given time, which
        are logged.

        Args:
            seconds: time limit for each data set that does not list its captions.
        """
        for member in (member for each in self._sources.values() for member in each):
            if member.source.headers() is None:
                yield from _sampled_captions(member, seconds)
            else:
                yield from captions_in(member.source)

    def read(self, sample: int) -> Sample:
        """The file of a sample's first choice."""
        at = self.location(sample)
        return at.member.source[int(at.files[at.first])]

    def sample_caption(self, sample: int) -> tuple[str, str]:
        """Name of the file of a sample, and the caption."""
        name, element = self._load(int(sample))
        return name, str(element["caption"])

    def _place_in_batch(self, position: int) -> tuple[Kind, int]:
        """Kind of a position in a batch, and its index among those of its kind."""
        videos, images = self.config.videos_per_batch, self.config.images_per_batch
        units = math.gcd(videos, images)
        unit, rest = divmod(position, self.config.batch // units)
        if rest < videos // units:
            return "video", unit * (videos // units) + rest
        return "image", unit * (images // units) + rest - videos // units

    def _pools_of(self, kind: Kind, members: Sequence[Member]) -> list[SizePool]:
        """The files that samples of a kind are drawn from, for each size.

        Raises:
            ValueError: one of the sizes has no files.
        """
        config = self.config
        if not config.buckets:
            return [SizePool(members, [range(len(m.source)) for m in members])]
        threads = config.num_threads
        parts = [
            files_by_size(config.sizes, m, self._skipped, threads) for m in members
        ]
        pools = []
        for bucket, (frames, height, width) in enumerate(config.sizes):
            held = [
                (member, part[bucket])
                for member, part in zip(members, parts, strict=True)
                if len(part[bucket])
            ]
            if not held:
                raise ValueError(
                    f"data.buckets: no {kind} is assigned to the size of {frames} "
                    f"frames of {height}x{width}, others are nearer; remove or change "
                    "it."
                )
            pools.append(SizePool(*map(list, zip(*held, strict=True))))
        return pools

    def _load(self, sample: int) -> tuple[str, LoadedSample]:
        """A sample from the first usable file, with the name of the file."""
        at = self.location(sample)
        kind, member = at.kind, at.member
        total = sum(len(each.source) for each in self._sources[kind])
        filtered = 0
        for moved in range(len(at.files)):
            index = int(at.files[(at.first + moved) % len(at.files)])
            # Each candidate starts with the same generator, so that a sample does not
            # depend on the candidates before it.
            rng = np.random.default_rng([self._seed, KINDS.index(kind), at.number])
            name = f"{kind} {index}"
            key = (kind, member.name, at.bucket, index)
            try:
                file, decoded = self._cache.get(key) or (member.source[index], None)
                name = member.named(file.name)
                self._skipped.refuse_slow(name)
                caption = self._caption(file, at)
                check_caption(caption)
                if decoded is None and self._cache.has_room():
                    decoded = self._decode(key, file)
                element = self._element(at, file, decoded, rng)
            except FilteredOut:
                filtered += 1
                continue
            except UnusableClip as error:
                self._skipped.add(kind, name, error, total)
                continue
            return name, element | {
                # An array of strings would pad all of them to the longest.
                "caption": np.asarray(caption, object),
                "sample": np.uint32(sample),
                "filtered": np.int32(filtered),
                "moved": np.uint32(moved),
            }
        raise ValueError(
            f"none of the {len(at.files)} {kind}s can be used; repair the files, or "
            f"use data.{kind}s_per_batch=0."
            + (f" Filters reject {filtered}." if filtered else "")
        )

    def _caption(self, file: Sample, at: SampleLocation) -> str:
        """The caption of a sample, drawn at random where there are several."""
        if not file.captions:
            return file.caption
        words = [self._seed, 2 * len(KINDS) + KINDS.index(at.kind), at.number]
        return file.captions[np.random.default_rng(words).integers(len(file.captions))]

    def _element(
        self,
        at: SampleLocation,
        file: Sample,
        decoded: DecodedClip | None,
        rng: np.random.Generator,
    ) -> dict[str, Any]:
        """Frames in the size of the batch, their interval and original resolution."""
        frames, *cover = self.config.sizes[at.bucket]
        if at.kind == "image":
            clip = decoded or self._decode_image(file, at.bucket)
            video, interval = clip.frames, 0.0
        else:
            opened = decoded and contextlib.nullcontext(decoded)
            with opened or self._open(file, at.bucket) as clip:
                rates = at.member.rates
                times, interval = frame_times(rng, clip.info, frames, *rates)
                video = clip.frames_at(times)
        video = np.ascontiguousarray(random_crop(rng, video, *cover))
        if at.kind == "image":
            video = as_video(video[0], frames)
        return {
            "video": video,
            "frame_interval": np.float32(interval),
            "resolution": np.asarray(file.resolution or clip.info.size, np.float32),
        }

    def _cover(self, bucket: int) -> Size:
        _, height, width = self.config.sizes[bucket]
        return height, width

    def _open(self, file: Sample, bucket: int) -> Clip:
        return Clip(file.data, self._cover(bucket), self.config.decode_seconds)

    def _decode_image(self, file: Sample, bucket: int) -> DecodedClip:
        return DecodedClip.from_image(*sized_image(file.data, self._cover(bucket)))

    def _decode(self, key: "Key", file: Sample) -> DecodedClip | None:
        """The whole file, decoded and cached; None where a part does not decode."""
        kind, _, bucket, _ = key
        try:
            if kind == "image":
                decoded = self._decode_image(file, bucket)
            else:
                with self._open(file, bucket) as clip:
                    decoded = clip.decoded()
        except UnusableClip:
            # Samples outside of the damaged part can still be decoded.
            return None
        self._cache.put(key, file, decoded)
        return decoded


def _sampled_captions(member: Member, seconds: float) -> Iterator[str]:
    """Captions of samples spread over a data set, up to a time limit."""
    total, end, read = len(member.source), time.monotonic() + seconds, 0
    step = max(1, round(total * 0.618))
    while math.gcd(step, total) > 1:
        step += 1  # coprime, so that each sample is visited once
    while read < total and time.monotonic() < end:
        yield from captions_of_sample(member.source, read * step % total)
        read += 1
    where = f" of {member.name}" if member.name else ""
    log.info("Checked the captions of %d of %d samples%s.", read, total, where)


class _Epochs:
    """Permutations of endless sequences of shuffled epochs; caches two per sequence.

    Safe between threads.
    """

    def __init__(self, seed: int):
        self._seed = seed
        self._cache: dict[tuple[int, ...], dict[int, Int[np.ndarray, "n"]]] = {}

    def order(
        self, words: tuple[int, ...], length: int, epoch: int
    ) -> Int[np.ndarray, "n"]:
        """A permutation of 0..length-1, another one for every epoch.

        Args:
            words: that identify the sequence.
            length: of each epoch.
            epoch: number of the epoch.
        """
        cached = self._cache.get(words, {})
        if epoch not in cached:
            # Grain's shuffle needs no table, but 8 ms an index on two files.
            row, *more = words
            rng = np.random.default_rng([self._seed, row, epoch, *more])
            cached = dict([*cached.items(), (epoch, rng.permutation(length))][-2:])
            self._cache[words] = cached
        return cached[epoch]

    def __getstate__(self) -> dict[str, Any]:
        return {"_seed": self._seed}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["_seed"])


Key = tuple[Kind, str, int, int]
"""Of a decoded file: kind, data set, bucket and index."""


class _DecodedFiles:
    """A cache of decoded files without eviction; safe between threads.

    A file is used once an epoch, in a new order, so evicting the oldest would remove
    most files shortly before their next use.
    """

    def __init__(self, limit_bytes: int):
        self._limit = limit_bytes
        self._files: dict[Key, tuple[Sample, DecodedClip]] = {}
        self._bytes = 0
        self._lock = threading.Lock()

    def has_room(self) -> bool:
        return self._bytes < self._limit

    def get(self, key: Key) -> tuple[Sample, DecodedClip] | None:
        return self._files.get(key)

    def put(self, key: Key, file: Sample, clip: DecodedClip) -> None:
        with self._lock:
            if key in self._files:
                return
            size = self._bytes + clip.frames.nbytes
            if size > self._limit:
                self._limit = self._bytes  # full: has_room() is False from now on
                return
            self._files[key] = dataclasses.replace(file, data=b""), clip
            self._bytes = size

    def __getstate__(self) -> dict[str, Any]:
        return {"_limit": self._limit}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["_limit"])
