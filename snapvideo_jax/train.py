"""The training loop, top to bottom: `launch` joins processes, `train` trains."""

import contextlib
import dataclasses
import hashlib
import logging
from contextlib import closing
from pathlib import Path

import flax.linen as nn
import jax
from ml_collections import ConfigDict

from snapvideo_jax import config as configs
from snapvideo_jax.data import make_joint_source, seek, split_dataset
from snapvideo_jax.data.unusable import list_path, merge_lists
from snapvideo_jax.io.errors import Preempted, SaveFailed, is_disk_full
from snapvideo_jax.io.files import remove_temporary_files, write_atomically
from snapvideo_jax.io.progress import progress
from snapvideo_jax.parallel import coordinator, processes
from snapvideo_jax.parallel.layout_report import checked_shardings
from snapvideo_jax.parallel.process_settings import ProcessOptions
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
from snapvideo_jax.training.goodput import Goodput, process_seconds
from snapvideo_jax.training.ledger import Ledger
from snapvideo_jax.training.monitor import Monitor
from snapvideo_jax.training.preemption import Preemption
from snapvideo_jax.training.prefetch import Prefetch
from snapvideo_jax.training.run_folder import RunFolder
from snapvideo_jax.training.watchdog import Watchdog
from snapvideo_jax.types import embedded

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainOptions(ProcessOptions):
    """Which run `launch` trains, as which of its processes.

    Attributes:
      config: "FILE[:ARG]" or "NAME[:ARG]"; None for the config in ``workdir``.
      overrides: of its fields, each as "--config.a.b=value".
      workdir: folder of the run.
    """

    config: str | None = None
    overrides: tuple[str, ...] = ()
    workdir: Path | None = None

    def load(self) -> ConfigDict:
        """The config with its overrides.

        Raises:
          ValueError: there is neither config nor workdir, or as `configs.load` and
            `configs.of_workdir`.
        """
        if self.config:
            return configs.load(self.config, self.overrides)
        if not self.workdir:
            raise ValueError(
                "--config is missing; specify one, or the --workdir of a run."
            )
        return configs.of_workdir(self.workdir, self.overrides)


def launch(options: TrainOptions) -> None:
    """Trains as one process of a run: joins the others, listens for SIGTERM, logs.

    Only for the main thread of a process that has not touched a device yet.

    Raises:
      ValueError: as `TrainOptions.load`, `processes.initialize` and `train`.
      RunStopped: as `train`.
    """
    goodput, workdir = Goodput(process_seconds()), options.workdir
    with (
        Preemption().listening() as preemption,
        processes.processes(options, workdir, always_log=True),
        preemption.synchronized(),
    ):
        config = options.load()
        if workdir is None:
            raise ValueError("--workdir is missing; specify the folder of the run.")
        processes.enable_compilation_cache(workdir)
        train(config, workdir, preemption, goodput)


@contextlib.contextmanager
def _full_disk_ends_the_run():
    """Raises `SaveFailed` in place of the error of a full disk."""
    try:
        yield
    except OSError as error:
        if not is_disk_full(error):
            raise
        raise SaveFailed(
            f"The disk is full ({error}); the newest checkpoint remains. Free some "
            "space, and run the same command to resume."
        ) from error


@_full_disk_ends_the_run()
def train(
    config: ConfigDict,
    workdir: Path,
    preemption: Preemption | None = None,
    goodput: Goodput | None = None,
) -> None:
    """Trains to the last step, from the newest checkpoint if there is one.

    Args:
      config: of the run.
      workdir: folder of the run.
      preemption: reports SIGTERM; None for a run that is never preempted.
      goodput: a clock that started with the process; None for a new one.

    Raises:
      ValueError: the config, the data or the workdir cannot be used; before anything
        is compiled.
      NonFiniteLoss: training diverged; names the step. The newest checkpoint remains.
      SaveFailed: a checkpoint could not be saved. Earlier ones remain.
      Preempted: SIGTERM was received; every finished step is saved.
    """
    # --- Config, mesh, checkpoints, data ---------------------------------------------
    preemption, goodput = preemption or Preemption(), goodput or Goodput()
    experiment = configs.build(config)
    run, mesh = experiment.run, make_mesh(experiment.mesh, experiment.data.batch)
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
    resumes = checkpoints.latest is not None
    first, last = checkpoints.latest or 0, experiment.optimizer.steps
    folder = folder.at(first, last)
    shared = "--workdir has to be a folder that all processes share"
    coordinator.assert_equal("The newest checkpoint", str(first), shared)
    save_config(config, folder, resumes)
    snapshots = EmaSnapshots(experiment, folder)
    over_batch = batch_sharding(mesh)
    joint, iterator = _open_data(experiment, workdir, over_batch)

    # --- State: shapes and shardings first, then the arrays --------------------------
    boxed = abstract_state(experiment)
    shardings = checked_shardings(boxed, mesh)
    if first < last:
        checkpoints.check_room(nn.unbox(boxed))
    if resumes:
        with goodput.timing("restore"):
            state = checkpoints.restore(with_shardings(nn.unbox(boxed), shardings))
            # Any number of processes can seek; a saved iterator's state is for one.
            seek(iterator, first)
        logger.info("Resuming %s at step %d.", workdir, first)
        snapshots.save_missing(first, state)
    else:
        with goodput.timing("compile"):
            state = warm_start.initial_state(experiment, mesh, shardings, workdir)
        logger.info("Starting %s at step 0.", workdir)

    # --- The compiled step, monitoring, prefetching ----------------------------------
    embed = experiment.text.on_devices(mesh)
    update = jit_train_step(experiment, mesh, shardings)
    key = put_key(experiment.seed, mesh)
    sheets = SheetSampler(experiment, mesh, folder)
    monitor = Monitor(experiment, folder, mesh, joint, goodput, sheets)
    watchdog = Watchdog(
        run.stall_minutes, run.stall_compile_minutes, run.stall_ends, goodput
    )
    prefetch = Prefetch(iterator, preemption)
    ledger = Ledger(folder, experiment.data.batch, run.ledger_steps)
    saver = _Saver(checkpoints, snapshots, ledger, monitor, goodput)

    # --- The loop. Each batch comes with the iterator's state after it, however far
    # --- ahead the iterator is.
    steps = progress(range(first, last), last, first, is_writer=folder.is_writer)
    done = first
    preemption.start(first, run.grace_seconds)
    goodput.started()
    with (
        closing(ledger),
        closing(monitor),
        closing(watchdog),
        closing(prefetch),
        monitor.summarizing(),
        closing(saver),
    ):
        for step in steps:
            with goodput.timing("data"):
                fetched = prefetch.next(step)
            if fetched is None:  # preempted
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
            saver.after_step(done, state, data_state, is_last=done == last)
        if done < last:
            if first < done:
                saver.save(done, state, data_state)
            raise Preempted(
                f"preempted (SIGTERM); step {done} is saved; run the same command to "
                "resume."
            )
    coordinator.barrier("trained")
    if folder.is_writer:
        merge_lists(workdir)


def _open_data(experiment: configs.Experiment, workdir: Path, over_batch):
    """The global sample sequence, and an iterator over this process's batches."""
    skipped_path = list_path(workdir, jax.process_index())
    joint = make_joint_source(experiment.data, experiment.seed, skipped_path)
    experiment.text.check(joint.captions())
    if experiment.sheets.every_steps:
        negative = experiment.guidance.negative_prompt
        prompts = (*experiment.sheets.prompts, *((negative,) if negative else ()))
        experiment.text.check(prompts)
    dataset = split_dataset(
        joint,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        text_encoder=experiment.text,
        rows=local_rows(over_batch, experiment.data.batch),
    )
    return joint, iter(dataset)


@dataclasses.dataclass(frozen=True)
class _Saver:
    """Saves states, each only after its loss was found finite.

    The ledger and the EMA snapshots are on disk before a checkpoint is: a run that
    resumes from it writes none of them again.
    """

    checkpoints: Checkpoints
    snapshots: EmaSnapshots
    ledger: Ledger
    monitor: Monitor
    goodput: Goodput

    def after_step(self, step: int, state, data_state, is_last: bool) -> None:
        """Saves what is due after ``step`` updates."""
        self.checkpoints.check_saves()
        if is_last or self.checkpoints.due(step):
            self.save(step, state, data_state, force=is_last)
        if self.snapshots.due(step):
            self.monitor.check_finite()
            with self.goodput.timing("save"):
                self.snapshots.save(step, state)

    def save(self, step: int, state, data_state, force: bool = True) -> None:
        """Starts a checkpoint; ``force`` saves to the workdir even if none is due."""
        self.monitor.check_finite()
        with self.goodput.timing("save"):
            self.ledger.flush()
            self.snapshots.wait()
            self.checkpoints.save(step, state, data_state, force=force)
        self.monitor.checkpoint_saved(step)

    def close(self) -> None:
        """Waits for what is being written."""
        with self.goodput.timing("save"), closing(self.checkpoints):
            self.snapshots.close()


def save_config(config: ConfigDict, folder: RunFolder, resumes: bool) -> None:
    """Writes the resolved config to the workdir; checks it where a run resumes.

    Raises:
      ValueError: the workdir was begun with another config, or the processes of this
        run have different ones.
    """
    path, text = folder.config, configs.to_json(config)
    if resumes and path.is_file():
        configs.check_same(config, path.read_text(), folder.path)
    if folder.is_writer:
        remove_temporary_files(folder.path)
        write_atomically(path, text.encode())
        merge_lists(folder.path, delete_parts=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    same = "start all processes with the same --config and the same overrides"
    coordinator.assert_equal("The digest of the config", digest, same)
    if not path.is_file():
        raise ValueError(
            f"{path}, which process 0 wrote, does not exist for process "
            f"{jax.process_index()}; --workdir has to be a folder that all processes "
            "share."
        )
