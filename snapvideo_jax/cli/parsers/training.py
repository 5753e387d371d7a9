"""Options of the verbs `train`, `ema`, `replay` and `rehearse`."""

from snapvideo_jax.cli.parsers.common import CONFIG_HELP, add, add_processes
from snapvideo_jax.cli.parsers.types import integer, path, several

EMA_HELP = """\
A run with optimizer.ema_widths=(0.05,0.1) and optimizer.ema_snapshot_steps saves
snapshots of two averages. From these an average of any other length is reconstructed
(post-hoc EMA, arXiv 2312.02696), and can be sampled:

  snapvideo ema --workdir DIR --length 0.075,0.15
  snapvideo sample --workdir DIR --ema_profile DIR/ema_profiles/0.075-at-100000 ...

--plan prints the disk that the snapshots of a run take and which lengths they will
give, for a run that exists (--workdir) or a config (--config, --config.a.b=value).
"""

REPLAY_HELP = """\
Steps are counted from 1, as in metrics.jsonl. The state before step N comes from the
newest checkpoint before it; the steps between are recomputed. Writes sheet.gif (of each
sample the clip, the network's input, the denoised clip) and replay.json. Exits with 1
where batch, loss or gradient differ from the ledger. --config. changes what a resumed
run may change, such as --config.mesh.fsdp or --config.data.root.
"""

REHEARSE_HELP = """\
Runs `snapvideo train` on this machine's CPU, in processes that connect over loopback,
and injects faults that happen on pods: sigterm, sigkill (at random steps), save_kill
(while a checkpoint is written), truncated (a damaged checkpoint), lost_process,
full_disk, slow_loader, other_count (of processes, on restart). Each run has to end as
an undisturbed one does, bit by bit on the same processes. Use your own data, and a
config that is small enough:

  --config configs/clips.py --config.data.root=FOLDER --config.model.blocks=1 --out OUT
"""


def add_verbs(verbs) -> None:
    """Adds the verbs to a command line."""
    _add_train(verbs)
    _add_ema(verbs)
    _add_replay(verbs)
    _add_rehearse(verbs)


def _add_folder(verb, name: str, help: str, required: bool = False) -> None:
    verb.add_argument(
        f"--{name}", type=path, metavar="DIR", help=help, required=required
    )


def _add_train(verbs) -> None:
    verb = add(
        verbs,
        "train",
        "Train a model; the same command resumes.",
        CONFIG_HELP,
        takes_overrides=True,
    )
    option = verb.add_argument
    option("--config", metavar="FILE[:ARG]", help="(default: the config in --workdir)")
    _add_folder(verb, "workdir", "folder of the run")
    option(
        "--dry-run",
        action="store_true",
        help="print the resolved config, parameters, tokens and the memory of the "
        "state per device, and exit",
    )
    option("--json", action="store_true", help="print --dry-run as JSON")
    add_processes(verb)


def _add_ema(verbs) -> None:
    verb = add(
        verbs,
        "ema",
        "Reconstruct EMAs of other lengths from a run's snapshots (post-hoc EMA).",
        EMA_HELP,
        takes_overrides=True,
    )
    option = verb.add_argument
    _add_folder(verb, "workdir", "of the run")
    option("--config", metavar="FILE[:ARG]", help="of a run to be planned")
    option(
        "--length",
        "--lengths",
        dest="lengths",
        type=several(float),
        default=(),
        metavar="L,L",
        help="relative standard deviations of the averages' profiles, such as 0.12",
    )
    option(
        "--half_life",
        type=several(float),
        default=(),
        metavar="N,N",
        help="lengths given as half-lives, in steps, of exponential averages",
    )
    option("--step", type=int, help="of a snapshot (default: the newest one)")
    _add_folder(verb, "out", "(default: WORKDIR/ema_profiles)")
    option(
        "--most_error",
        type=float,
        default=0.1,
        metavar="E",
        help="refuse averages whose profile has a larger relative error (default: 0.1)",
    )
    option(
        "--plan",
        action="store_true",
        help="print the disk that snapshots take and the errors of lengths, and exit",
    )
    option("--json", action="store_true", help="print JSON")


def _add_replay(verbs) -> None:
    verb = add(
        verbs,
        "replay",
        "Recompute a step of a run, and look into its batch.",
        REPLAY_HELP,
        takes_overrides=True,
    )
    option = verb.add_argument
    _add_folder(verb, "workdir", "of the run", required=True)
    option("--step", required=True, type=integer(least=1), metavar="N", help="from 1")
    option(
        "--samples",
        type=several(int),
        metavar="I,J",
        help="rows of the batch to look into (default: the 64 with the largest losses)",
    )
    option(
        "--from_checkpoint",
        action="store_true",
        help="use the checkpoint's state as an approximation; recompute nothing",
    )
    _add_folder(verb, "out", "(default: WORKDIR/replay/N)")
    option("--json", action="store_true", help="print JSON")


def _add_rehearse(verbs) -> None:
    verb = add(
        verbs,
        "rehearse",
        "Inject faults into real runs of a config, and report which they survive.",
        REHEARSE_HELP,
        takes_overrides=True,
    )
    option = verb.add_argument
    option("--config", required=True, metavar="FILE[:ARG]")
    _add_folder(verb, "out", "a new folder", required=True)
    option(
        "--steps", type=integer(least=6), default=24, help="of each run (default: 24)"
    )
    option(
        "--processes", type=integer(least=1), default=2, help="of each run (default: 2)"
    )
    option(
        "--seed",
        type=integer(least=0),
        default=0,
        help="of the steps at which faults strike (default: 0)",
    )
    option(
        "--faults", type=several(), metavar="F,F", help="(default: all of the above)"
    )
    option(
        "--kills",
        type=integer(least=1),
        default=3,
        help="of sigkill and save_kill (default: 3)",
    )
    option("--json", action="store_true", help="print JSON")
