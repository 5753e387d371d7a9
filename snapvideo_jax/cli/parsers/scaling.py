"""Options of the verb `scaling`."""

from snapvideo_jax.cli.parsers.common import CONFIG_HELP, add, add_processes
from snapvideo_jax.cli.parsers.types import integer, part, path, several

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
        "Scaling laws of FIT: generate, run, fit and plot a sweep.",
    )
    actions = scaling.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_generate(actions)
    _add_run(actions)
    fit = _add(actions, "fit", "Fit the law to the finished runs.")
    fit.add_argument(
        "--flops",
        type=several(float),
        default=(),
        metavar="C,C",
        help="further budgets of training FLOPs to forecast the best size for",
    )
    fit.add_argument(
        "--plan",
        type=path,
        metavar="FILE",
        help="a plan in docs/plans, whose MFU converts FLOPs to chip-hours",
    )
    fit.add_argument(
        "--draws",
        type=integer(least=20),
        default=200,
        metavar="N",
        help="resamples of the bootstrap (default: 200)",
    )
    fit.add_argument(
        "--seed",
        type=integer(least=0),
        default=0,
        metavar="N",
        help="seed of the bootstrap (default: 0)",
    )
    fit.add_argument("--json", action="store_true", help="print JSON")
    _add(actions, "plot", "Write runs.csv and law.png of a fitted sweep.")


def _add(actions, name: str, help: str, epilog: str = "", **options):
    action = add(actions, name, help, epilog, **options)
    action.add_argument(
        "--out", type=path, required=True, metavar="DIR", help="folder of the sweep"
    )
    return action


def _add_generate(actions) -> None:
    action = _add(
        actions,
        "generate",
        "Generate the configs of a sweep's runs.",
        GENERATE_HELP + CONFIG_HELP,
        takes_overrides=True,
    )
    action.add_argument("--config", required=True, metavar="FILE[:ARG]")
    action.add_argument(
        "--budgets",
        type=several(float),
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
            f"--{axis}", type=several(float), default=(), metavar="N,N", help=what
        )
    action.add_argument(
        "--validation",
        type=path,
        metavar="DIR",
        help="clips that no run trains on: captions.jsonl, or .array_record files "
        "(default for the shapes: scenes of another seed)",
    )


def _add_run(actions) -> None:
    action = _add(
        actions,
        "run",
        "Train and validate the runs; run the same command to resume.",
        "Each run is trained as by snapvideo train, in DIR/runs/NAME.",
    )
    action.add_argument(
        "--part",
        type=part,
        default=(0, 1),
        metavar="I/N",
        help="part of the runs (default: 0/1, all)",
    )
    action.add_argument(
        "--samples",
        type=integer(least=2),
        default=512,
        metavar="N",
        help="samples of the validation (default: 512)",
    )
    add_processes(action)
