"""How fast clips are read, what limits it, and how many cores feed a pod.

The samples are those that a run begins with. They pass through ever more of the
pipeline, in one thread: read, then read and decoded, then made into elements, then
into batches; a stage costs what a pass takes beyond the one before. Pictures are made
small as they are decoded, and texts are embedded with the batch. Processor seconds are
counted, which depend little on what else the machine does. Threads and worker
processes are then timed by the clock, with as many as there are cores.
"""

import dataclasses
import itertools
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from snapvideo_jax import config as configs
from snapvideo_jax.data import UnusableClip, decode_image, split_dataset
from snapvideo_jax.data.pipeline import make_joint_source
from snapvideo_jax.data.sequence import JointSource
from snapvideo_jax.data.transforms import frame_times
from snapvideo_jax.data.video import Clip
from snapvideo_jax.io.options import check_step_seconds
from snapvideo_jax.planning import PlanRequest, Target, cached_plan
from snapvideo_jax.planning.golden_plans import GOLDEN_PLANS

BATCH = 16
"""Samples of a batch that are read, if it has more; a stage costs the same a clip."""
TURNS = 3


def run(arguments) -> None:
    """`snapvideo bench data`.

    Raises:
      ValueError: an option or the data cannot be used.
    """
    check_step_seconds(arguments)
    config = configs.load(arguments.config, arguments.overrides)
    result = bench_data(config, arguments.steps)
    needed = clips_needed(arguments, config)
    if needed:
        result["pod"] = cores_needed(result, *needed)
    print(json.dumps(result) if arguments.json else describe(result))


def bench_data(config: ConfigDict, steps: int) -> dict[str, Any]:
    """Measures how a config's data are read.

    Args:
      config: of the experiment.
      steps: batches of which samples are read.

    Returns:
      ``stages``: processor seconds a clip in each, in order. ``seconds_per_clip``:
      their sum. ``clips_per_second``: on a core, with threads, with workers.

    Raises:
      ValueError: the data cannot be used.
    """
    experiment = configs.build(config)
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
    # A stage that costs next to nothing can come out below it.
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
    return {
        "clips": len(samples),
        "stages": stages,
        "seconds_per_clip": sums[-1],
        "clips_per_second": rates,
        "cores": cores,
    }


def clips_needed(arguments, config: ConfigDict) -> tuple[str, float, int | None] | None:
    """What a pod takes: by which source, clips a second, and its devices.

    Raises:
      ValueError: the topology is unknown, or the config does not fit there.
    """
    if arguments.step_seconds is not None:
        batch = configs.build(config).data.batch
        return "--step_seconds", batch / arguments.step_seconds, None
    if not arguments.plan:
        return None
    plan = _golden_plan(arguments, config)
    if plan:
        return plan
    plan = cached_plan(PlanRequest(config, Target(arguments.plan)))
    if not plan["fits"]:
        raise ValueError(f"the config does not fit --plan={arguments.plan}.")
    return arguments.plan, plan["clips_per_second"], plan["devices"]


def _golden_plan(arguments, config: ConfigDict) -> tuple[str, float, int] | None:
    """What `clips_needed` gives, from docs/plans; None where it has no such plan."""

    def asked(settings: ConfigDict) -> dict[str, Any]:
        """All but where the data come from and how they are read."""
        data = settings.data
        sizes = ("frames", "height", "width", "buckets", "bucket_weights")
        sizes += ("videos_per_batch", "images_per_batch")
        return settings.to_dict() | {"data": [data[name] for name in sizes]}

    for golden in GOLDEN_PLANS.values():
        same_name = golden.config == Path(arguments.config).name
        if not same_name or golden.topology != arguments.plan or golden.clips:
            continue
        overrides = [f"--config.{item}" for item in golden.overrides]
        if asked(config) != asked(configs.load(arguments.config, overrides)):
            continue
        if found := golden.read():
            plan = found["plan"]
            return golden.name, plan["clips_per_second"], plan["devices"]
    return None


def cores_needed(
    result: dict[str, Any], source: str, clips: float, devices: int | None
) -> dict[str, Any]:
    """Cores like these that read as many clips a second."""
    cores = clips * result["seconds_per_clip"]
    return {
        "source": source,
        "clips_per_second": clips,
        "cores": cores,
        "cores_per_device": devices and cores / devices,
    }


def describe(result: dict[str, Any]) -> str:
    """What was measured as lines of text."""
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
            continue  # what takes its place is read by the later passes


def _decode(joint: JointSource, sample: int) -> None:
    """Decodes the frames of a sample, without making anything of them."""
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
    """Batches of `BATCH` samples from the beginning of the global sequence."""
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
    """Clips a second by the clock, once all readers are at work."""
    iterator = iter(_dataset(joint, encoder))
    try:
        clips = len(next(iterator).moved)
        began = time.monotonic()
        for _ in range(steps):
            next(iterator)
        return steps * clips / (time.monotonic() - began)
    finally:
        iterator.close()
