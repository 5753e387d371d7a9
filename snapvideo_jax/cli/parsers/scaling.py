"""Options of the verb `scaling`."""

from snapvideo_jax.cli.parsers.common import CONFIG_HELP, add, add_processes
from snapvideo_jax.io.options import numbers

GENERATE_HELP = """\
Each axis is varied alone, and every size is trained at every budget:

  snapvideo scaling generate --config configs/scaling.py --out sweep \\
      --width 0.5,2 --budgets 5e11,1e12,2e12

"""


def add_verbs(verbs) -> None:
    """Adds the verb to a command line."""
    scaling = add(
        verbs,
        "scaling",
        "Scaling laws of a FIT: sweeps generated, run, fitted and plotted.",
        takes_overrides=True,
    )
    actions = scaling.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_generate(actions)
    _add_run(actions)
    fit = _add(actions, "fit", "Fit the law to the runs that are finished.")
    fit.add_argument(
        "--flops",
        type=numbers,
        default=(),
        metavar="C,C",
        help="further budgets to forecast the best size for",
    )
    fit.add_argument(
        "--plan",
        metavar="FILE",
        help="of docs/plans, whose MFU makes chip-hours of FLOPs",
    )
    fit.add_argument(
        "--draws", type=int, default=200, help="of the bootstrap (default: 200)"
    )
    fit.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    fit.add_argument("--json", action="store_true", help="print JSON")
    _add(actions, "plot", "Write runs.csv and law.png of what was fitted.")


def _add(actions, name: str, help: str, epilog: str = ""):
    action = add(actions, name, help, epilog, takes_overrides=True)
    action.add_argument("--out", required=True, metavar="DIR", help="of the sweep")
    return action


def _add_generate(actions) -> None:
    action = _add(
        actions, "generate", "Plan the runs of a sweep.", GENERATE_HELP + CONFIG_HELP
    )
    action.add_argument("--config", required=True, metavar="FILE[:ARG]")
    action.add_argument(
        "--budgets",
        type=numbers,
        required=True,
        metavar="C,C",
        help="training FLOPs of a run",
    )
    for axis, what in {
        "width": "factors of all widths",
        "blocks": "numbers of blocks",
        "latents": "numbers of latents",
        "patch": "sides of patches in pixels",
    }.items():
        action.add_argument(
            f"--{axis}", type=numbers, default=(), metavar="N,N", help=what
        )
    action.add_argument(
        "--validation",
        metavar="DIR",
        help="clips that no run trains on: captions.jsonl, or .array_record files "
        "(default, of shapes: scenes of another seed)",
    )


def _add_run(actions) -> None:
    action = _add(
        actions,
        "run",
        "Train and validate the runs; the same command goes on.",
        "A run is trained as by snapvideo train, in DIR/runs/NAME.",
    )
    action.add_argument(
        "--part", default="0/1", metavar="I/N", help="of the runs (default: 0/1, all)"
    )
    action.add_argument(
        "--samples", type=int, default=512, help="of the validation (default: 512)"
    )
    add_processes(action)
