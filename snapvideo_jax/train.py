"""The training loop, from config to checkpoints, in the order things happen."""

import functools
import hashlib
import logging
import sys
from contextlib import closing
from pathlib import Path

import flax.linen as nn
import jax
from ml_collections import ConfigDict

from snapvideo_jax import config as configs
from snapvideo_jax import distributed, sample
from snapvideo_jax.checkpoint import Checkpoints
from snapvideo_jax.data import make_joint_source, seek, split_dataset
from snapvideo_jax.data.skipped import gather, list_of
from snapvideo_jax.describe import describe, print_description
from snapvideo_jax.files import write_whole
from snapvideo_jax.layout import checked_shardings
from snapvideo_jax.metrics import progress
from snapvideo_jax.sharding import (
    batch_sharding,
    local_rows,
    make_mesh,
    placed,
    put_batch,
    put_key,
)
from snapvideo_jax.step import jit_train_step
from snapvideo_jax.watch import NonFiniteLoss, Watch

logger = logging.getLogger(__name__)


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
        negative = experiment.guidance.negative_prompt
        told = (negative,) if negative else ()
        experiment.text.check((*experiment.sheets.prompts, *told))

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
    watch = Watch(experiment, workdir, mesh, first, is_writer, joint)

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
