"""Options of the verbs `train`, `ema`, `replay` and `rehearse`."""

from snapvideo_jax.cli.parsers.common import CONFIG_HELP, add, add_processes
from snapvideo_jax.io.options import numbers

EMA_HELP = """\
A run with optimizer.ema_widths=(0.05,0.1) and optimizer.ema_snapshot_steps keeps
snapshots of two averages. An average of any other length is made of them, and sampled:

  snapvideo ema --workdir DIR --length 0.075,0.15
  snapvideo sample --workdir DIR --ema_profile DIR/ema_profiles/0.075-at-100000 ...

--plan tells beforehand what snapshots take and which lengths they will give, of a run
that is there (--workdir) or of one to come (--config, with --config.a.b=value).
"""

REPLAY_HELP = """\
N is counted as metrics.jsonl counts. The state before it comes from the newest
checkpoint that is kept, and the steps between are done again. Writes sheet.gif (the
clip, the network's input, the denoised clip of each sample) and replay.json. Exits with
1 where batch, loss or gradient are not those of the ledger. --config. changes what a
resumed run may change, such as --config.mesh.fsdp or --config.data.root.
"""

REHEARSE_HELP = """\
Starts `snapvideo train` on this machine's CPU, in processes that meet over the
loopback, and does to it what happens on pods: sigterm, sigkill (at moments of chance),
save_kill (while a checkpoint is written), truncated (a damaged checkpoint),
lost_process, full_disk, slow_loader, other_count (of processes, on restart). Each run
has to end as an undisturbed one does, bit by bit on the same processes. Use your own
data, and a config that is small enough:

  --config configs/clips.py --config.data.root=FOLDER --config.model.blocks=1 --out OUT
"""


def add_verbs(verbs) -> None:
    """Adds the verbs to a command line."""
    _add_train(verbs)
    _add_ema(verbs)
    _add_replay(verbs)
    _add_rehearse(verbs)


def _add_train(verbs) -> None:
    verb = add(
        verbs,
        "train",
        "Train a model; the same command resumes.",
        CONFIG_HELP,
        takes_overrides=True,
    )
    verb.add_argument(
        "--config", metavar="FILE[:ARG]", help="(default: that of the run in --workdir)"
    )
    verb.add_argument("--workdir", metavar="DIR", help="where the run is kept")
    verb.add_argument(
        "--dry-run",
        action="store_true",
        help="print the resolved config, parameters, tokens and the memory of the "
        "state per device, and stop",
    )
    verb.add_argument("--json", action="store_true", help="print --dry-run as JSON")
    add_processes(verb)


def _add_ema(verbs) -> None:
    verb = add(
        verbs,
        "ema",
        "Make averages of other lengths from a run's snapshots (post-hoc EMA).",
        EMA_HELP,
        takes_overrides=True,
    )
    verb.add_argument("--workdir", metavar="DIR", help="of the run")
    verb.add_argument("--config", metavar="FILE[:ARG]", help="of a run to be planned")
    verb.add_argument(
        "--length",
        "--lengths",
        dest="lengths",
        type=numbers,
        default=(),
        metavar="L,L",
        help="relative standard deviations of the averages' profiles, as 0.12",
    )
    verb.add_argument(
        "--half_life",
        type=numbers,
        default=(),
        metavar="N,N",
        help="lengths as the half-lives, in steps, of exponential averages as wide",
    )
    verb.add_argument("--step", type=int, help="of a snapshot (default: newest)")
    verb.add_argument("--out", metavar="DIR", help="(default: WORKDIR/ema_profiles)")
    verb.add_argument(
        "--most_error",
        type=float,
        default=0.1,
        metavar="E",
        help="refuse averages whose profile would be further off (default: 0.1)",
    )
    verb.add_argument(
        "--plan",
        action="store_true",
        help="print the disk that snapshots take and the errors of lengths, and stop",
    )
    verb.add_argument("--json", action="store_true", help="print JSON")


def _add_replay(verbs) -> None:
    verb = add(
        verbs,
        "replay",
        "Do a step of a run again, and look into it.",
        REPLAY_HELP,
        takes_overrides=True,
    )
    verb.add_argument("--workdir", required=True, metavar="DIR", help="of the run")
    verb.add_argument("--step", required=True, type=int, metavar="N", help="from 1")
    verb.add_argument(
        "--samples",
        type=lambda text: [int(row) for row in text.split(",")],
        metavar="I,J",
        help="rows of the batch to look into (default: the 64 of the largest losses)",
    )
    verb.add_argument(
        "--from_checkpoint",
        action="store_true",
        help="take the checkpoint's state as an approximation; nothing is done again",
    )
    verb.add_argument("--out", metavar="DIR", help="(default: replay/N in the workdir)")
    verb.add_argument("--json", action="store_true", help="print JSON")


def _add_rehearse(verbs) -> None:
    verb = add(
        verbs,
        "rehearse",
        "Let real runs of a config meet faults, and see whether they survive.",
        REHEARSE_HELP,
        takes_overrides=True,
    )
    verb.add_argument("--config", required=True, metavar="FILE[:ARG]")
    verb.add_argument("--out", required=True, metavar="DIR", help="made anew")
    verb.add_argument("--steps", type=int, default=24, help="of a run (default: 24)")
    verb.add_argument("--processes", type=int, default=2, help="of a run (default: 2)")
    verb.add_argument("--seed", type=int, default=0, help="of when faults strike")
    verb.add_argument(
        "--faults",
        type=lambda text: tuple(text.split(",")),
        metavar="F,F",
        help="some of those above (default: all)",
    )
    verb.add_argument(
        "--kills", type=int, default=3, help="of sigkill and save_kill (default: 3)"
    )
    verb.add_argument("--json", action="store_true", help="print JSON")
