"""The training loop, from config to checkpoints, in the order things happen."""

import dataclasses
import functools
import hashlib
import itertools
import json
import logging
import sys
import time
from contextlib import closing
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
from ml_collections import ConfigDict

from snapvideo_jax import config as configs
from snapvideo_jax import distributed, layout, sample
from snapvideo_jax.checkpoint import Checkpoints
from snapvideo_jax.chips import peak_tflops
from snapvideo_jax.data import make_joint_source, seek, split_dataset
from snapvideo_jax.data.skipped import check_share, gather, list_of
from snapvideo_jax.files import write_whole
from snapvideo_jax.layout import checked_shardings
from snapvideo_jax.metrics import MetricWriter, progress
from snapvideo_jax.models.flops import fit_forward, train_factor
from snapvideo_jax.sharding import (
    AXES,
    batch_sharding,
    bytes_per_device,
    local_rows,
    make_mesh,
    placed,
    put_batch,
    put_key,
)
from snapvideo_jax.step import BIN_EDGES, jit_train_step

logger = logging.getLogger(__name__)


class NonFiniteLoss(RuntimeError):
    """The loss of a step was infinite or not a number."""

    exit_code = 3


def train(config: ConfigDict, workdir: Path) -> None:
    """Trains to the last step, from the newest checkpoint where there is one.

    Raises:
      ValueError: the config, the data or the workdir cannot be used; before anything
        is compiled.
      NonFiniteLoss: training diverged; names the step. The newest checkpoint stays.
    """
    # --- Config, mesh, data -------------------------------------------------------
    experiment = configs.build(config)
    mesh = make_mesh(experiment.mesh, experiment.data.batch)
    over_batch = batch_sharding(mesh)
    is_writer = jax.process_index() == 0
    checkpoints = Checkpoints(
        workdir,
        experiment.run.checkpoint_every_steps,
        experiment.run.keep,
        experiment.run.keep_every_steps,
    )
    first = checkpoints.latest or 0
    last = experiment.optimizer.steps
    shared = "--workdir has to be a folder that all processes share"
    distributed.agree("The newest checkpoint", str(first), shared)
    keep_config(config, workdir, begun=first > 0, is_writer=is_writer)
    skipped_path = list_of(workdir, jax.process_index())
    joint = make_joint_source(experiment.data, experiment.seed, skipped_path)
    experiment.text.check(joint.captions())
    iterator = iter(
        split_dataset(
            joint,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            text_encoder=experiment.text,
            rows=local_rows(over_batch, experiment.data.batch),
        )
    )

    if experiment.sheets.every_steps:
        experiment.text.check(experiment.sheets.prompts)

    # --- State: shapes and places first, then the arrays ---------------------------
    boxed = sample.abstract_state(experiment)
    places = checked_shardings(boxed, mesh)
    if first:
        state = checkpoints.restore(placed(nn.unbox(boxed), places))
        logger.info("Resuming %s at step %d.", workdir, first)
        seek(iterator, first)  # for any number of processes, unlike a kept state
    else:
        fresh = functools.partial(sample.fresh_state, experiment)
        state = jax.jit(lambda: nn.unbox(fresh()), out_shardings=places)()

    # --- The step, compiled --------------------------------------------------------
    embed = experiment.text.on_devices(mesh)
    update = jit_train_step(experiment, mesh, places)
    key = put_key(experiment.seed, mesh)
    watch = Watch(experiment, workdir, mesh, joint, first, is_writer)

    # --- The loop. The order is fixed: the iterator moves on only after its state for
    # --- this step is taken, and a state is saved only after its loss was looked at.
    steps = progress(range(first, last), total=last, initial=first, is_writer=is_writer)
    with closing(iterator), closing(watch), closing(checkpoints):
        for step in steps:
            with watch.waiting():
                batch = next(iterator)
            data_state = iterator.get_state()
            batch = embed(put_batch(batch, over_batch))
            state, metrics = update(state, batch, key)
            done = step + 1
            watch.after_step(done, state, metrics)
            if checkpoints.due(done) or done == last:
                watch.check_finite()
                checkpoints.save(done, state, data_state, force=done == last)
    distributed.barrier("trained")
    if is_writer:
        gather(workdir)


def keep_config(
    config: ConfigDict, workdir: Path, begun: bool, is_writer: bool
) -> None:
    """Writes the resolved config to the workdir; checks it where a run has begun there.

    Raises:
      ValueError: the workdir was begun with another config, or the processes of this
        run have different ones.
    """
    path, text = workdir / "config.json", configs.to_json(config)
    if begun and path.is_file():
        configs.check_same(config, path.read_text(), workdir)
    if is_writer:
        write_whole(path, text.encode())
        gather(workdir, forget=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    same = "start all processes with the same --config and the same overrides"
    distributed.agree("The digest of the config", digest, same)
    if not path.is_file():
        raise ValueError(
            f"{path}, which process 0 wrote, is not there for process "
            f"{jax.process_index()}; --workdir has to be a folder that all processes "
            "share."
        )


class Watch:
    """What is written of a run while it trains: metrics and sample sheets."""

    def __init__(
        self, experiment, workdir: Path, mesh, joint, first: int, is_writer: bool
    ):
        self._experiment, self._workdir, self._mesh = experiment, workdir, mesh
        self._joint = joint
        self._writer = MetricWriter(workdir, is_writer, resume_step=first)
        self._is_writer = is_writer
        self._flops = flops_per_sample(experiment)
        device = jax.devices()[0]
        self._peak = experiment.run.peak_tflops or peak_tflops(device.device_kind)
        self._pending: list = []
        self._generator = None
        self._begin()

    def _begin(self) -> None:
        self._waited, self._began = 0.0, time.monotonic()

    def waiting(self):
        """A context that counts the time spent in it as waiting for data."""
        return _Stopwatch(self)

    def after_step(self, done: int, state, metrics) -> None:
        """Keeps the metrics of a step; writes them and a sheet where they are due."""
        # One step is left in flight, so that the host never holds up the device.
        if self._pending:
            self._check(*self._pending[-1])
        self._pending.append((done, metrics))
        last = done == self._experiment.optimizer.steps
        if done % self._experiment.run.log_every_steps == 0 or last:
            self._log(done)
        every = self._experiment.sheets.every_steps
        if self._experiment.sheets.prompts and every and (done % every == 0 or last):
            self._sheet(done, state)

    def check_finite(self) -> None:
        """Waits for the last step and looks at its loss."""
        for step, metrics in self._pending[-1:]:
            self._check(step, metrics)

    def close(self) -> None:
        self._writer.close()

    def _check(self, step: int, metrics) -> None:
        loss = float(metrics["loss"])
        if not np.isfinite(loss):
            raise NonFiniteLoss(
                f"The loss of step {step} is {loss}. The newest checkpoint is kept; "
                f"lower optimizer.learning_rate or look at the data of that step."
            )

    def _log(self, done: int) -> None:
        steps = [metrics for _, metrics in self._pending]
        self.check_finite()
        seconds = time.monotonic() - self._began
        clips = len(steps) * self._experiment.data.batch
        rate = self._flops * clips / seconds
        values = {
            "loss": np.mean([float(m["loss"]) for m in steps]),
            "grad_norm": np.mean([float(m["grad_norm"]) for m in steps]),
            "learning_rate": float(self._experiment.optimizer.schedule()(done - 1)),
            "clips_per_second": clips / seconds,
            "seconds_per_step": seconds / len(steps),
            "data_wait_share": self._waited / seconds,
            "model_tflops_per_second": rate / 1e12,
        } | _bin_means(steps)
        if self._peak:
            values["mfu"] = rate / (self._peak * 1e12 * self._mesh.size)
        if self._joint.filtered:
            values["filtered_files"] = self._joint.filtered
        if self._is_writer:
            skipped = gather(self._workdir)
            values["skipped_files"] = len(skipped)
        self._writer.write(done, values)
        if self._is_writer:
            share = self._experiment.data.max_skipped_share
            check_share(skipped, share, list_of(self._workdir, 0))
        logger.info(
            "step %d: loss %.4f, %.4g clips/s, %.1f %% of the time waiting for data",
            done,
            values["loss"],
            clips / seconds,
            100 * self._waited / seconds,
        )
        self._pending = []
        self._begin()

    def _sheet(self, done: int, state) -> None:
        """Samples the fixed prompts from raw and EMA weights."""
        began = time.monotonic()
        sheets = self._experiment.sheets
        if self._generator is None:
            self._generator = sample.Generator(
                self._experiment, self._experiment.sampler, self._mesh
            )
        request = sample.Request(
            prompts=sheets.prompts,
            numbers=range(len(sheets.prompts)),
            seed=0,
            guidance=sheets.guidance,
            fps=sheets.fps,
            resolution=sample.resolution_of(self._experiment),
        )
        for name, params in (("raw", state.params), ("ema", state.ema)):
            clips = self._generator(params, request)
            if not self._is_writer:
                continue
            folder = self._workdir / "sheets"
            folder.mkdir(exist_ok=True)
            stem = folder / f"{done:07d}-{name}"
            frames = sample.write_sheet(stem, clips, sheets.prompts, sheets)
            self._writer.write_video(done, f"samples/{name}", frames, sheets.fps or 1.0)
        if self._is_writer:
            logger.info("step %d: sheet %s.gif", done, stem)
        self._began += time.monotonic() - began


class _Stopwatch:
    def __init__(self, watch: Watch):
        self._watch = watch

    def __enter__(self):
        self._began = time.monotonic()

    def __exit__(self, *exception):
        self._watch._waited += time.monotonic() - self._began


def describe(config: ConfigDict) -> dict:
    """What --dry-run prints: sizes and memory, computed without allocating anything."""
    experiment = configs.build(config)
    boxed = sample.abstract_state(experiment)
    sizes = dataclasses.asdict(experiment.mesh)
    sizes["data"] = max(sizes["data"], 1)
    mesh = jax.sharding.AbstractMesh(tuple(sizes.values()), AXES)
    places = checked_shardings(boxed, mesh)
    shapes = nn.unbox(boxed)
    memory = {
        name: bytes_per_device(getattr(shapes, name), getattr(places, name))
        for name in ("params", "opt_state", "ema")
    }
    model = experiment.model
    return {
        "config": json.loads(configs.to_json(config)),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(shapes.params)),
        "tokens": {
            "patches": model.groups * model.patches_per_group,
            "groups": model.groups,
            "latents": model.latents,
            "context": experiment.text.tokens + model.context_numbers,
        },
        "forward_flops_per_sample": flops_forward(experiment),
        "batch": experiment.data.batch,
        "mesh": dict(mesh.shape),
        "state_bytes_per_device": memory | {"total": sum(memory.values())},
        "layout": layout.report(boxed.params, places.params),
    }


def run(arguments) -> None:
    """`snapvideo train`."""
    with configs.user_errors():
        if arguments.dry_run:
            config = configs.load(arguments.config, arguments.overrides)
            print_description(describe(config), arguments.json)
            return
        folder = arguments.workdir
        try:
            with distributed.processes(vars(arguments), folder, always_log=True):
                config = configs.load(arguments.config, arguments.overrides)
                if not folder:
                    raise ValueError("--workdir is missing; the run is kept there.")
                distributed.keep_compiled(Path(folder))
                train(config, Path(folder))
        except NonFiniteLoss as error:
            print(f"snapvideo: stopped: {error}", file=sys.stderr)
            raise SystemExit(NonFiniteLoss.exit_code) from error


def print_description(description: dict, as_json: bool) -> None:
    """The description as JSON, or as text for people."""
    if as_json:
        print(json.dumps(description))
        return
    print(json.dumps(description["config"], indent=2))
    memory = description["state_bytes_per_device"]
    tokens = description["tokens"]
    print(f"parameters        {description['parameters']:,}")
    print("tokens            " + ", ".join(f"{n:,} {k}" for k, n in tokens.items()))
    print(f"forward FLOPs     {description['forward_flops_per_sample']:.4g} a sample")
    print(f"batch             {description['batch']:,}")
    print(
        "mesh              "
        + ", ".join(f"{axis} {size}" for axis, size in description["mesh"].items())
    )
    print(
        "state per device  "
        + ", ".join(f"{name} {size / 1e9:.3g} GB" for name, size in memory.items())
    )
    print("layout of the parameters")
    print(layout.describe(description["layout"]))


def flops_forward(experiment) -> float:
    """FLOPs of one forward pass of one sample; the mean over the sizes of batches."""
    model, data = experiment.model, experiment.data
    tokens = experiment.text.tokens + model.context_numbers
    models = [model.at(*size) for size in data.sizes] if data.buckets else [model]
    each = [sum(fit_forward(model, tokens).values()) for model in models]
    return float(np.average(each, weights=data.size_weights))


def flops_per_sample(experiment) -> float:
    """Model FLOPs of training on one sample; recomputation does not count."""
    share = experiment.training.self_conditioned_share
    return flops_forward(experiment) * train_factor(share)


def _bin_means(steps) -> dict[str, float]:
    """Mean loss by kind and noise bin; bins without a sample are left out."""
    total = np.sum([np.asarray(m["loss_sum"]) for m in steps], axis=0)
    count = np.sum([np.asarray(m["loss_count"]) for m in steps], axis=0)
    edges = ("0", *map(str, BIN_EDGES), "inf")
    bins = [f"sigma_{low}_to_{high}" for low, high in itertools.pairwise(edges)]
    return {
        f"loss/{kind}/{bins[bin]}": float(total[row, bin] / n)
        for row, kind in enumerate(("video", "image"))
        for bin, n in enumerate(count[row])
        if n
    }
