"""The training loop, from config to checkpoints, in the order things happen."""

import functools
import hashlib
import logging
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import flax.linen as nn
import jax
from ml_collections import ConfigDict

from snapvideo_jax import config as configs
from snapvideo_jax import distributed, transplant
from snapvideo_jax.checkpoint import Checkpoints
from snapvideo_jax.data import make_joint_source, seek, split_dataset
from snapvideo_jax.data.skipped import gather, list_of
from snapvideo_jax.describe import describe, print_description
from snapvideo_jax.ending import Ending, Preempted, SaveFailed, is_full
from snapvideo_jax.feed import Feed
from snapvideo_jax.files import forget_passing, write_whole
from snapvideo_jax.goodput import Goodput, process_seconds
from snapvideo_jax.layout import checked_shardings
from snapvideo_jax.ledger import Ledger
from snapvideo_jax.metrics import progress
from snapvideo_jax.preemption import Stop
from snapvideo_jax.sharding import (
    batch_sharding,
    local_rows,
    make_mesh,
    placed,
    put_batch,
    put_key,
)
from snapvideo_jax.snapshots import Snapshots
from snapvideo_jax.states import abstract_state
from snapvideo_jax.step import jit_train_step
from snapvideo_jax.watch import Watch
from snapvideo_jax.watchdog import Watchdog

logger = logging.getLogger(__name__)


def train(
    config: ConfigDict,
    workdir: Path,
    stop: Stop | None = None,
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
    stop, goodput = stop or Stop(), goodput or Goodput()
    experiment = configs.build(config)
    run = experiment.run
    mesh = make_mesh(experiment.mesh, experiment.data.batch)
    over_batch = batch_sharding(mesh)
    is_writer = jax.process_index() == 0
    with goodput.doing("restore"):
        checkpoints = Checkpoints(
            workdir,
            run.checkpoint_every_steps,
            run.keep,
            run.keep_every_steps,
            run.local_folder,
            run.local_every_steps,
        )
    begun = checkpoints.latest is not None
    first = checkpoints.latest or 0
    last = experiment.optimizer.steps
    shared = "--workdir has to be a folder that all processes share"
    distributed.agree("The newest checkpoint", str(first), shared)
    keep_config(config, workdir, begun=begun, is_writer=is_writer)
    snapshots = Snapshots(experiment, workdir, first, is_writer)
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
        with goodput.doing("restore"):
            state = checkpoints.restore(placed(nn.unbox(boxed), places))
            seek(iterator, first)  # for any number of processes, unlike a kept state
        logger.info("Resuming %s at step %d.", workdir, first)
        snapshots.catch_up(first, state)
    else:
        with goodput.doing("compile"):
            state = transplant.begin(experiment, mesh, places, workdir)
        logger.info("Beginning %s at step 0.", workdir)

    # --- The step, compiled --------------------------------------------------------
    embed = experiment.text.on_devices(mesh)
    update = jit_train_step(experiment, mesh, places)
    key = put_key(experiment.seed, mesh)
    watch = Watch(experiment, workdir, mesh, first, is_writer, joint, goodput)
    watchdog = Watchdog(
        run.stall_minutes, run.stall_compile_minutes, run.stall_ends, goodput
    )
    feed = Feed(iterator, stop)
    ledger = Ledger(workdir, experiment.data.batch, first, run.ledger_steps)
    save = functools.partial(_save, checkpoints, snapshots, watch, ledger, goodput)

    # --- The loop. A batch comes with the iterator's state after it, however far ahead
    # --- the iterator is; a state is saved only after its loss was looked at.
    steps = progress(range(first, last), total=last, initial=first, is_writer=is_writer)
    done, ended = first, "finished"
    stop.begin(first, run.grace_seconds)
    goodput.started()
    with closing(ledger), closing(watch), closing(watchdog), closing(feed):
        try:
            with _finished(checkpoints, snapshots, goodput):
                for step in steps:
                    with goodput.doing("data"):
                        fetched = feed.next(step)
                    if fetched is None:
                        ended = Preempted.__name__
                        break
                    rows, data_state = fetched
                    moved = rows.pop("moved")
                    batch = embed(put_batch(rows, over_batch))
                    with goodput.doing("compile" if step == first else "step"):
                        state, metrics = update(state, batch, key)
                    stop.compiled()
                    done = step + 1
                    ledger.add(done, rows, moved, metrics)
                    watch.after_step(done, state, metrics)
                    watchdog.finished(done)
                    checkpoints.check_saves()
                    ending = done == last
                    if ending or checkpoints.due(done):
                        save(done, state, data_state, force=ending)
                    if snapshots.due(done):
                        watch.check_finite()
                        with goodput.doing("save"):
                            snapshots.save(done, state)
                if first < done < last:
                    save(done, state, data_state, force=True)
        except BaseException as error:
            ended = type(error).__name__
            raise
        finally:
            if done > first:
                watch.ended(ended)
    if ended != "finished":
        raise Preempted(
            f"Told to stop; step {done} is saved. The same command goes on."
        )
    distributed.barrier("trained")
    if is_writer:
        gather(workdir)


def _save(
    checkpoints, snapshots, watch, ledger, goodput, done: int, *kept, force: bool
) -> None:
    """Saves a state whose loss is finite."""
    watch.check_finite()
    with goodput.doing("save"):
        ledger.flush()
        snapshots.wait()  # a run that resumes here makes none of them again
        checkpoints.save(done, *kept, force=force)
    watch.saved(done)


@contextmanager
def _finished(
    checkpoints: Checkpoints, snapshots: Snapshots, goodput: Goodput
) -> Iterator[None]:
    """Waits at the end for what is being written."""
    try:
        yield
    finally:
        with goodput.doing("save"), closing(checkpoints):
            snapshots.close()


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
        forget_passing(workdir)
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
            print_description(describe(_config(arguments)), arguments.json)
            return
        folder = arguments.workdir
        try:
            _train(arguments, folder)
        except Preempted as error:
            distributed.leave(error)  # at once, whatever the loader is waiting for
        except Ending as error:
            print(f"snapvideo: stopped: {error}", file=sys.stderr)
            raise SystemExit(error.exit_code) from error


def _config(arguments) -> ConfigDict:
    """The config that the command line names, or else that of the workdir.

    Raises:
      ValueError: it names none, or as `configs.load` and `configs.of_workdir`.
    """
    if arguments.config:
        return configs.load(arguments.config, arguments.overrides)
    if not arguments.workdir:
        raise ValueError(
            "--config is missing; give one, or the --workdir of a run that was begun."
        )
    return configs.of_workdir(Path(arguments.workdir), arguments.overrides)


def _train(arguments, folder: str | None) -> None:
    goodput = Goodput(process_seconds())
    with (
        Stop().listening() as stop,
        distributed.processes(vars(arguments), folder, always_log=True),
        stop.joined(),
    ):
        config = _config(arguments)
        if not folder:
            raise ValueError("--workdir is missing; the run is kept there.")
        distributed.keep_compiled(Path(folder))
        try:
            train(config, Path(folder), stop, goodput)
        except OSError as error:
            if not is_full(error):
                raise
            raise SaveFailed(
                f"The disk takes no more ({error}); the newest checkpoint stays. Make "
                "room there, and start the same command again."
            ) from error
