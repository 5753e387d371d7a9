"""The Grain graph: from sources to the batches of one process.

    sample numbers → this process's rows → decode, cut, resize → batch → threads
    (→ reading processes) → text embeddings

All randomness sits in `JointSource`, before the split over processes, so the global
sequence of batches is the same for any number of processes, threads and workers.
Text is embedded last and in the training process, where the encoder lives; workers
need neither the encoder nor a device.
"""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import grain
import numpy as np
from jaxtyping import Bool, Shaped

from snapvideo_jax.data.config import DataConfig
from snapvideo_jax.data.container import UnusableClip
from snapvideo_jax.data.mixture import Member, make_sources
from snapvideo_jax.data.sequence import JointSource
from snapvideo_jax.data.transforms import frame_times
from snapvideo_jax.data.unusable import Skipped
from snapvideo_jax.data.video import probe
from snapvideo_jax.io.captions import Kind
from snapvideo_jax.text import TextEncoder
from snapvideo_jax.types import Fetched, LoadedSample, RawBatch

PROBED_CLIPS = 512
CACHED_CAPTIONS = 2048


def make_dataset(
    config: DataConfig,
    seed: int,
    process_index: int,
    process_count: int,
    text_encoder: TextEncoder,
    skipped_path: str | Path | None = None,
    rows: Sequence[int] | None = None,
) -> grain.IterDataset:
    """The batches of one process, each a `types.Fetched`, without end.

    Args:
        config: what to read, and what a batch looks like.
        seed: of everything random in the data, at least 0.
        process_index, process_count: which of how many processes this is.
        text_encoder: embeds captions.
        skipped_path: where to list files that cannot be used; None lists them nowhere.
        rows: places in a global batch that this process loads; None for one block of
            neighbours, in the order of the processes.

    Raises:
        ValueError: the data does not fit the settings, or batches cannot be split.
    """
    joint = make_joint_source(config, seed, skipped_path)
    text_encoder.check(joint.captions())
    return split_dataset(joint, process_index, process_count, text_encoder, rows)


def make_joint_source(
    config: DataConfig, seed: int, skipped_path: str | Path | None = None
) -> JointSource:
    """The global sequence of samples, after checks of its sources.

    Args and Raises: as `make_dataset`.
    """
    sources = make_sources(config)
    check_sources(config, sources)
    skipped = Skipped(skipped_path, config.max_skipped_share)
    return JointSource(config, sources, seed, skipped)


def split_dataset(
    joint: JointSource,
    process_index: int,
    process_count: int,
    text_encoder: TextEncoder,
    rows: Sequence[int] | None = None,
) -> grain.IterDataset:
    """The batches of one process: its rows of every global batch.

    The rows of all processes together are the batch that a single process would get.

    Args and Raises: as `make_dataset`.
    """
    config = joint.config
    if config.batch % process_count:
        raise ValueError(
            f"data.videos_per_batch + data.images_per_batch = {config.batch} does not "
            f"divide among {process_count} processes; use multiples of it."
        )
    if rows is None:
        local = config.batch // process_count
        rows = range(process_index * local, (process_index + 1) * local)
    steps = len(joint) // config.batch
    number = functools.partial(_global_sample, config.batch, tuple(rows))
    samples = grain.MapDataset.range(steps * len(rows)).map(number)
    # Grain's default is a buffer of 500 elements, here batches.
    options = grain.ReadOptions(
        num_threads=config.num_threads,
        prefetch_buffer_size=max(config.prefetch, config.num_threads),
    )
    batches = samples.map(joint.__getitem__).batch(len(rows), drop_remainder=True)
    dataset = batches.to_iter_dataset(options)
    if config.num_workers:
        dataset = dataset.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=config.num_workers)
        )
    return dataset.map(_EncodeCaptions(text_encoder, joint))


def seek(iterator: grain.DatasetIterator, step: int) -> None:
    """Sets an iterator of `make_dataset` to the batch of a step, in no time.

    Args:
        iterator: fresh or used.
        step: its next batch, at least 0.
    """
    state = iterator.get_state()
    if "next_index" in state:
        iterator.set_state({"next_index": step})
        return
    # Reading processes take turns; each counts its own batches.
    workers = len(state["iterators_in_use_states"])
    state["next_index_in_cycle"] = step % workers
    state["iterators_in_use_states"] = [
        {"next_index": len(range(worker, step, workers))} for worker in range(workers)
    ]
    iterator.set_state(state)


def captions_of(
    joint: JointSource, samples: Sequence[int] | np.ndarray
) -> list[tuple[str, str]]:
    """File name and caption of each sample, such as ``batch["sample"]``."""
    return [joint.sample_caption(int(sample)) for sample in samples]


def check_sources(config: DataConfig, sources: Mapping[Kind, Sequence[Member]]) -> None:
    """Makes sure that some clip of every data set can give the frames asked for.

    It looks at no more than `PROBED_CLIPS` clips, and stops at the first that can.

    Raises:
        ValueError: none can, with the largest ``data.frames`` that would do.
    """
    for member in sources.get("video", ()):
        try:
            _check_clips(config, member)
        except ValueError as error:
            where = f"data.mixture.{member.name}: " if member.name else ""
            raise ValueError(f"{where}{error}") from error


def _check_clips(config: DataConfig, member: Member) -> None:
    clips, longest, reason = member.source, 0, ""
    frames = min(frames for frames, _, _ in config.sizes)
    probed = min(len(clips), PROBED_CLIPS)
    for index in range(probed):
        name = f"video {index}"
        try:
            clip = clips[index]
            name, info = clip.name, probe(clip.data)
            longest = max(longest, info.frames)
            frame_times(np.random.default_rng(0), info, frames, *member.rates)
            return
        except UnusableClip as error:
            reason = f"{name}: {error}"
    if 1 < longest < frames:
        raise ValueError(
            f"data.frames={frames} is more than any of the {probed} clips "
            f"looked at holds, the longest has {longest} frames; use "
            f"data.frames<={longest}."
        )
    raise ValueError(
        f"none of the {probed} clips looked at can be used (last: {reason}); set "
        f"data.root to other data or correct what is named here."
    )


def _global_sample(batch: int, rows: tuple[int, ...], number: int) -> int:
    """Global number of a process's ``number``-th sample."""
    step, position = divmod(number, len(rows))
    return step * batch + rows[position]


class _EncodeCaptions:
    """Replaces the captions of a batch with the input of the encoder's device half.

    Captions are encoded one at a time: an encoder may round differently in larger
    batches, and the result for a caption must not depend on the rest of its batch.
    """

    def __init__(self, encoder: TextEncoder, joint: JointSource):
        self._encoder, self._joint = encoder, joint
        self._encode = functools.lru_cache(CACHED_CAPTIONS)(self._encode_one)

    def __call__(self, samples: LoadedSample) -> Fetched:
        """One element of the pipeline, from samples stacked along a leading axis."""
        # Counted in the training process, whichever process read the files.
        self._joint.filtered += int(samples["filtered"].sum())
        captions = [str(caption) for caption in samples["caption"]]
        self._encoder.check(captions)
        text, mask = zip(*map(self._encode, captions), strict=True)
        batch = RawBatch(
            video=samples["video"],
            frame_interval=samples["frame_interval"],
            resolution=samples["resolution"],
            text_input=np.stack(text),
            text_mask=np.stack(mask),
            sample=samples["sample"],
        )
        return Fetched(batch, samples["moved"])

    def _encode_one(
        self, caption: str
    ) -> tuple[Shaped[np.ndarray, "n *f"], Bool[np.ndarray, "n"]]:
        text, mask = self._encoder.encode([caption])
        return text[0], mask[0]
