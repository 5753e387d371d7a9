"""How fast clips are read, the stage that limits it, and the cores that a pod needs.

The samples are the first of a run. Four passes run ever more stages of the pipeline in
one thread: reading; reading and decoding; resized elements; batches. The cost of a
stage is the time of its pass minus that of the pass before. Images are downscaled while
they are decoded, and captions are embedded with the batch. The passes are timed in
processor seconds, which other load on the machine hardly changes. Threads and worker
processes, one for each core, are then timed by the wall clock.
"""

import dataclasses
import itertools
import os
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from snapvideo_jax import config as configs
from snapvideo_jax.data import UnusableClip, decode_image, split_dataset
from snapvideo_jax.data.pipeline import make_joint_source
from snapvideo_jax.data.sequence import JointSource
from snapvideo_jax.data.transforms import frame_times
from snapvideo_jax.data.video import Clip
from snapvideo_jax.planning import PlanRequest, Target, cached_plan
from snapvideo_jax.planning.golden_plans import GOLDEN_PLANS

BATCH = 16
"""Most samples read of each batch; the cost of a clip does not depend on it."""
TURNS = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchDataOptions:
    """What `bench_data` measures.

    Attributes:
      steps: batches to read; 1 or more.
      plan: TPU topology, for example "v6e:16x16", whose demand for clips is added.
      step_seconds: seconds of a train step on the pod, in place of ``plan``; above 0.
    """

    steps: int = 20
    plan: str | None = None
    step_seconds: float | None = None

    def __post_init__(self):
        if self.step_seconds is not None and not self.step_seconds > 0:
            raise ValueError(
                f"--step_seconds={self.step_seconds} is out of range; use more than 0."
            )


def bench_data(config: ConfigDict, options: BenchDataOptions) -> dict[str, Any]:
    """Measures how fast a config's data are read.

    Args:
      config: of the experiment.
      options: what is measured.

    Returns:
      ``stages``: processor seconds a clip in each, in order. ``seconds_per_clip``:
      their sum. ``clips_per_second``: on a core, with threads, with workers. ``pod``:
      as from `cores_needed`, where a plan or a step time is given.

    Raises:
      ValueError: the data cannot be used, the topology is unknown, or the config does
        not fit there.
    """
    experiment, steps = configs.build(config), options.steps
    data = dataclasses.replace(
        experiment.data, num_threads=0, num_workers=0, cache_decoded_mb=0
    )
    joint = make_joint_source(data, experiment.seed)
    rows = range(min(BATCH, data.batch))
    samples = [step * data.batch + row for step in range(steps) for row in rows]
    passes = {
        "read": lambda: _each(joint.read, samples),
        "decode": lambda: _each(lambda sample: _decode(joint, sample), samples),
        "resize": lambda: _each(joint.__getitem__, samples),
        "batch": lambda: _batches(joint, experiment.text, steps),
    }
    taken: dict[str, list[float]] = {name: [] for name in passes}
    for _ in range(TURNS):
        for name, call in passes.items():
            began = time.process_time()
            call()
            taken[name].append((time.process_time() - began) / len(samples))
    sums = [0.0, *(statistics.median(seconds) for seconds in taken.values())]
    # Noise can make the difference of a stage that costs next to nothing negative.
    stages = {
        name: max(0.0, after - before)
        for name, (before, after) in zip(passes, itertools.pairwise(sums), strict=True)
    }
    cores = len(os.sched_getaffinity(0))
    rates = {"one core": 1 / sums[-1]}
    for name, field in (("threads", "num_threads"), ("workers", "num_workers")):
        both = make_joint_source(
            dataclasses.replace(data, **{field: cores}), experiment.seed
        )
        rates[f"{cores} {name}"] = _rate(both, experiment.text, steps)
    result = {
        "clips": len(samples),
        "stages": stages,
        "seconds_per_clip": sums[-1],
        "clips_per_second": rates,
        "cores": cores,
    }
    if needed := clips_needed(config, options):
        result["pod"] = cores_needed(result, *needed)
    return result


def clips_needed(
    config: ConfigDict, options: BenchDataOptions
) -> tuple[str, float, int | None] | None:
    """The demand of a pod: its source, clips a second, and the number of devices.

    Raises:
      ValueError: the topology is unknown, or the config does not fit there.
    """
    if options.step_seconds is not None:
        batch = configs.build(config).data.batch
        return "--step_seconds", batch / options.step_seconds, None
    if not options.plan:
        return None
    if golden := _golden_plan(config, options.plan):
        return golden
    plan = cached_plan(PlanRequest(config, Target(options.plan)))
    if not plan["fits"]:
        raise ValueError(f"The config does not fit --plan={options.plan}.")
    return options.plan, plan["clips_per_second"], plan["devices"]


def _golden_plan(config: ConfigDict, topology: str) -> tuple[str, float, int] | None:
    """The demand from the golden plan of this config in docs/plans, if there is one."""

    def compared(settings: ConfigDict) -> dict[str, Any]:
        """All settings except those of the data source and its reading."""
        data = settings.data
        sizes = ("frames", "height", "width", "buckets", "bucket_weights")
        sizes += ("videos_per_batch", "images_per_batch")
        return settings.to_dict() | {"data": [data[name] for name in sizes]}

    for golden in GOLDEN_PLANS.values():
        if golden.topology != topology or golden.clips:
            continue
        if compared(config) == compared(golden.request().config) and (
            found := golden.read()
        ):
            plan = found["plan"]
            return golden.name, plan["clips_per_second"], plan["devices"]
    return None


def cores_needed(
    result: dict[str, Any], source: str, clips: float, devices: int | None
) -> dict[str, Any]:
    """Cores of this machine's kind that read ``clips`` a second.

    Args:
      result: as from `bench_data`.
      source, clips, devices: as from `clips_needed`.
    """
    cores = clips * result["seconds_per_clip"]
    return {
        "source": source,
        "clips_per_second": clips,
        "cores": cores,
        "cores_per_device": devices and cores / devices,
    }


def describe(result: dict[str, Any]) -> str:
    """The measurements as lines of text."""
    total, stages = result["seconds_per_clip"], result["stages"]
    lines = [
        f"{name:<14}{1e3 * seconds:.3f} ms a clip, {seconds / total:.1%}"
        for name, seconds in stages.items()
    ]
    lines.append(f"limited by    {max(stages, key=stages.get)}")
    lines += [
        f"{name:<14}{rate:.4g} clips a second"
        for name, rate in result["clips_per_second"].items()
    ]
    if pod := result.get("pod"):
        each = pod["cores_per_device"]
        lines.append(
            f"pod           {pod['clips_per_second']:.4g} clips a second "
            f"({pod['source']}): {pod['cores']:.1f} cores like these"
            + (f", {each:.2f} a device" if each else "")
        )
    return "\n".join(lines)


def _each(call: Callable[[int], Any], samples: Sequence[int]) -> None:
    for sample in samples:
        try:
            call(sample)
        except UnusableClip:
            continue  # the later passes read its substitute


def _decode(joint: JointSource, sample: int) -> None:
    """Decodes the frames of a sample and discards them."""
    file, location = joint.read(sample), joint.location(sample)
    frames, height, width = joint.config.sizes[location.bucket]
    if location.kind == "image":
        decode_image(file.data, (height, width))
        return
    rng = np.random.default_rng(location.number)
    with Clip(file.data) as clip:
        times, _ = frame_times(rng, clip.info, frames, *location.member.rates)
        for _ in clip.decode(clip.nearest_stamps(times)[0]):
            pass


def _dataset(joint: JointSource, encoder):
    """Batches of up to `BATCH` samples from the start of the global sequence."""
    rows = range(min(BATCH, joint.config.batch))
    return split_dataset(joint, 0, 1, encoder, rows)


def _batches(joint: JointSource, encoder, steps: int) -> None:
    iterator = iter(_dataset(joint, encoder))
    try:
        for _ in range(steps):
            next(iterator)
    finally:
        iterator.close()


def _rate(joint: JointSource, encoder, steps: int) -> float:
    """Clips a second by the wall clock, after the first batch."""
    iterator = iter(_dataset(joint, encoder))
    try:
        clips = len(next(iterator).moved)
        began = time.monotonic()
        for _ in range(steps):
            next(iterator)
        return steps * clips / (time.monotonic() - began)
    finally:
        iterator.close()
