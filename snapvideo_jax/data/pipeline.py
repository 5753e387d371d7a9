"""The Grain graph: from sources to the batches of one process.

    sample numbers → this process's rows → decode, crop, resize → batch → threads
    (→ worker processes) → text encoding

All randomness is in `JointSource`, before the split over processes, so the global
sequence of batches is the same for any number of processes, threads and workers.
Text is encoded last, in the training process; workers need neither the encoder nor a
device.
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
    """The endless batches of one process, each a `types.Fetched`.

    Args:
        config: sources and sizes.
        seed: of all randomness in the data, at least 0.
        process_index, process_count: of this process, and of all.
        text_encoder: encodes captions.
        skipped_path: list of unusable files; None: they are only logged.
        rows: of a global batch that this process loads; None: one contiguous block for
            each process, in their order.

    Raises:
        ValueError: the data do not match the settings, or batches cannot be split.
    """
    joint = make_joint_source(config, seed, skipped_path)
    text_encoder.check(joint.captions())
    return split_dataset(joint, process_index, process_count, text_encoder, rows)


def make_joint_source(
    config: DataConfig, seed: int, skipped_path: str | Path | None = None
) -> JointSource:
    """The global sequence of samples, after `check_sources`.

    Args and Raises: as of `make_dataset`.
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

    The rows of all processes together are the batch that a single process would load.

    Args and Raises: as of `make_dataset`.
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
    # Grain's default is to buffer 500 elements, which are batches here.
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
    """Sets an iterator of `make_dataset` to the batch of a step, in constant time.

    Args:
        iterator: to change.
        step: of its next batch, at least 0.
    """
    state = iterator.get_state()
    if "next_index" in state:
        iterator.set_state({"next_index": step})
        return
    # Worker processes take turns, and each counts its own batches.
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
    """Checks that some clip of every data set has ``data.frames`` frames.

    Probes up to `PROBED_CLIPS` clips of each, until the first that suffices.

    Raises:
        ValueError: none does; the message has the largest possible ``data.frames``.
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
            f"data.frames={frames} is more than any of the {probed} probed clips has, "
            f"the longest has {longest} frames; use data.frames<={longest}."
        )
    raise ValueError(
        f"none of the {probed} clips probed can be used (last: {reason}); set "
        f"data.root to other data, or change the setting named here."
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
