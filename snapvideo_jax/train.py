"""The training loop, from config to checkpoints, in the order things happen."""

import functools
import hashlib
import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import flax.linen as nn
import jax
from ml_collections import ConfigDict

from snapvideo_jax import config as configs
from snapvideo_jax.data import make_joint_source, seek, split_dataset
from snapvideo_jax.data.unusable import gather, list_of
from snapvideo_jax.io.errors import Preempted
from snapvideo_jax.io.files import remove_temporary_files, write_atomically
from snapvideo_jax.io.progress import progress
from snapvideo_jax.parallel import coordinator
from snapvideo_jax.parallel.layout_report import checked_shardings
from snapvideo_jax.parallel.sharding import (
    batch_sharding,
    local_rows,
    make_mesh,
    put_batch,
    put_key,
    with_shardings,
)
from snapvideo_jax.sampling.sheets import SheetSampler
from snapvideo_jax.state import abstract_state
from snapvideo_jax.step import jit_train_step
from snapvideo_jax.training.checkpoints import warm_start
from snapvideo_jax.training.checkpoints.checkpoints import Checkpoints
from snapvideo_jax.training.checkpoints.ema_snapshots import EmaSnapshots
from snapvideo_jax.training.goodput import Goodput
from snapvideo_jax.training.ledger import Ledger
from snapvideo_jax.training.monitor import Monitor
from snapvideo_jax.training.preemption import Preemption
from snapvideo_jax.training.prefetch import Prefetch
from snapvideo_jax.training.run_folder import RunFolder
from snapvideo_jax.training.watchdog import Watchdog
from snapvideo_jax.types import embedded

logger = logging.getLogger(__name__)


def train(
    config: ConfigDict,
    workdir: Path,
    preemption: Preemption | None = None,
    goodput: Goodput | None = None,
) -> None:
    """Trains to the last step, from the newest checkpoint where there is one.

    Args:
      config: of the run.
      workdir: in which it is kept.
      stop: hears that the run is to stop; None where nothing will tell.
      goodput: a clock that has begun with the process; None for a new one.

    Raises:
      ValueError: the config, the data or the workdir cannot be used; before anything
        is compiled.
      NonFiniteLoss: training diverged; names the step. The newest checkpoint stays.
      SaveFailed: a checkpoint could not be written. Those before it stay.
      Preempted: the run was told to stop; all that was done is saved.
    """
    # --- Config, mesh, data -------------------------------------------------------
    preemption, goodput = preemption or Preemption(), goodput or Goodput()
    experiment = configs.build(config)
    run = experiment.run
    mesh = make_mesh(experiment.mesh, experiment.data.batch)
    over_batch = batch_sharding(mesh)
    folder = RunFolder(workdir, is_writer=jax.process_index() == 0)
    with goodput.timing("restore"):
        checkpoints = Checkpoints(
            workdir,
            run.checkpoint_every_steps,
            run.keep,
            run.keep_every_steps,
            run.local_folder,
            run.local_every_steps,
        )
    begun = checkpoints.latest is not None
    first, last = checkpoints.latest or 0, experiment.optimizer.steps
    folder = folder.at(first, last)
    shared = "--workdir has to be a folder that all processes share"
    coordinator.assert_equal("The newest checkpoint", str(first), shared)
    save_config(config, folder, begun)
    snapshots = EmaSnapshots(experiment, folder)
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
    boxed = abstract_state(experiment)
    places = checked_shardings(boxed, mesh)
    if first < last:
        checkpoints.check_room(nn.unbox(boxed))
    if begun:
        with goodput.timing("restore"):
            state = checkpoints.restore(with_shardings(nn.unbox(boxed), places))
            seek(iterator, first)  # for any number of processes, unlike a kept state
        logger.info("Resuming %s at step %d.", workdir, first)
        snapshots.save_missing(first, state)
    else:
        with goodput.timing("compile"):
            state = warm_start.initial_state(experiment, mesh, places, workdir)
        logger.info("Beginning %s at step 0.", workdir)

    # --- The step, compiled --------------------------------------------------------
    embed = experiment.text.on_devices(mesh)
    update = jit_train_step(experiment, mesh, places)
    key = put_key(experiment.seed, mesh)
    monitor = Monitor(
        experiment,
        folder,
        mesh,
        joint,
        goodput,
        SheetSampler(experiment, mesh, folder),
    )
    watchdog = Watchdog(
        run.stall_minutes, run.stall_compile_minutes, run.stall_ends, goodput
    )
    prefetch = Prefetch(iterator, preemption)
    ledger = Ledger(folder, experiment.data.batch, run.ledger_steps)
    save = functools.partial(_save, checkpoints, snapshots, monitor, ledger, goodput)

    # --- The loop. A batch comes with the iterator's state after it, however far ahead
    # --- the iterator is; a state is saved only after its loss was looked at.
    steps = progress(
        range(first, last), total=last, initial=first, is_writer=folder.is_writer
    )
    done, ended = first, "finished"
    preemption.start(first, run.grace_seconds)
    goodput.started()
    with closing(ledger), closing(monitor), closing(watchdog), closing(prefetch):
        try:
            with _finished(checkpoints, snapshots, goodput):
                for step in steps:
                    with goodput.timing("data"):
                        fetched = prefetch.next(step)
                    if fetched is None:
                        ended = Preempted.__name__
                        break
                    (rows, moved), data_state = fetched
                    batch = embedded(put_batch(rows, over_batch), embed)
                    with goodput.timing("compile" if step == first else "step"):
                        state, metrics = update(state, batch, key)
                    preemption.compiled()
                    done = step + 1
                    ledger.record(done, rows, moved, metrics)
                    monitor.after_step(done, state, metrics)
                    watchdog.step_finished(done)
                    checkpoints.check_saves()
                    ending = done == last
                    if ending or checkpoints.due(done):
                        save(done, state, data_state, force=ending)
                    if snapshots.due(done):
                        monitor.check_finite()
                        with goodput.timing("save"):
                            snapshots.save(done, state)
                if first < done < last:
                    save(done, state, data_state, force=True)
        except BaseException as error:
            ended = type(error).__name__
            raise
        finally:
            if done > first:
                monitor.ended(ended)
    if ended != "finished":
        raise Preempted(
            f"Told to stop; step {done} is saved. The same command goes on."
        )
    coordinator.barrier("trained")
    if folder.is_writer:
        gather(workdir)


def _save(
    checkpoints, snapshots, monitor, ledger, goodput, done: int, *kept, force: bool
) -> None:
    """Saves a state whose loss is finite."""
    monitor.check_finite()
    with goodput.timing("save"):
        ledger.flush()
        snapshots.wait()  # a run that resumes here makes none of them again
        checkpoints.save(done, *kept, force=force)
    monitor.checkpoint_saved(done)


@contextmanager
def _finished(
    checkpoints: Checkpoints, snapshots: EmaSnapshots, goodput: Goodput
) -> Iterator[None]:
    """Waits at the end for what is being written."""
    try:
        yield
    finally:
        with goodput.timing("save"), closing(checkpoints):
            snapshots.close()


def save_config(config: ConfigDict, folder: RunFolder, begun: bool) -> None:
    """Writes the resolved config to the workdir; checks it where a run has begun there.

    Raises:
      ValueError: the workdir was begun with another config, or the processes of this
        run have different ones.
    """
    path, text = folder.config, configs.to_json(config)
    if begun and path.is_file():
        configs.check_same(config, path.read_text(), folder.path)
    if folder.is_writer:
        remove_temporary_files(folder.path)
        write_atomically(path, text.encode())
        gather(folder.path, forget=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    same = "start all processes with the same --config and the same overrides"
    coordinator.assert_equal("The digest of the config", digest, same)
    if not path.is_file():
        raise ValueError(
            f"{path}, which process 0 wrote, is not there for process "
            f"{jax.process_index()}; --workdir has to be a folder that all processes "
            "share."
        )
