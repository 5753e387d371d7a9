"""Options of the verbs `plan` and `bench`."""

from snapvideo_jax.cli.parsers.common import CONFIG_HELP, add, add_processes
from snapvideo_jax.cli.parsers.types import integer, number, path, several

PLAN_HELP = """\
A plan that does not fit reports by how much, and a change with which it would fit.
Compiled plans are cached in ~/.cache/snapvideo/plans: the same plan is then printed at
once, and a search that was interrupted resumes. A search does not change fields that
--config. sets. The sampler's steps, solver and guidance are those of the config:

  --config configs/fit.py --topology v6e:2x2 --sampler --batch 16 \\
      --config.sampler.steps=64 --config.sheets.guidance=2

"""


def add_verbs(verbs) -> None:
    """Adds the verbs to a command line."""
    _add_plan(verbs)
    _add_bench(verbs)


def _add_plan(verbs) -> None:
    verb = add(
        verbs,
        "plan",
        "Compile a config for a TPU topology, without the TPU: memory, speed, cost.",
        PLAN_HELP + CONFIG_HELP,
        takes_overrides=True,
    )
    verb.add_argument("--config", metavar="FILE[:ARG]", help="the config to plan")
    verb.add_argument("--topology", metavar="CHIP:SHAPE", help="for example v5p:4x4x8")
    verb.add_argument(
        "--slices",
        type=integer(least=1),
        default=1,
        metavar="N",
        help="number of such slices (default: 1)",
    )
    verb.add_argument(
        "--sampler", action="store_true", help="plan the sampler, not the train step"
    )
    verb.add_argument(
        "--batch",
        type=integer(least=1),
        metavar="N",
        help="clips that the sampler generates at once (default: 64)",
    )
    verb.add_argument(
        "--search",
        action="store_true",
        help="find the fastest remat, microbatches and mesh that fit",
    )
    verb.add_argument(
        "--search_limit",
        type=integer(least=1),
        metavar="N",
        help="compilations of the search, minutes each (default: 12)",
    )
    verb.add_argument(
        "--layout",
        action="store_true",
        help="print how parameters are sharded over the topology; compiles nothing",
    )
    verb.add_argument(
        "--flags",
        type=path,
        metavar="FILE",
        help="write a shell script that exports the compiler flags for a run",
    )
    verb.add_argument(
        "--golden",
        metavar="NAME",
        help="regenerate docs/plans/NAME.json and docs/plans.md of a checkout: names "
        "separated by commas, small, or all",
    )
    verb.add_argument("--json", action="store_true", help="print JSON")


def _add_bench(verbs) -> None:
    verb = add(
        verbs,
        "bench",
        "Measure a config on the devices of this machine: time, rates, memory.",
        CONFIG_HELP,
        takes_overrides=True,
    )
    verb.add_argument(
        "what",
        nargs="?",
        choices=("step", "data", "models"),
        default="step",
        help="the train step (default), the reading of data on the host's cores, or "
        "a comparison of FIT, the U-Nets and DiTs",
    )
    verb.add_argument(
        "--step_seconds",
        type=number(above=0),
        metavar="S",
        help="data: seconds of a train step on the pod, in place of --plan",
    )
    verb.add_argument("--config", metavar="FILE[:ARG]", help="step and data: config")
    verb.add_argument(
        "--only",
        type=several(),
        metavar="NAME,NAME",
        help="models: networks to compare (default: all)",
    )
    verb.add_argument(
        "--divide",
        type=integer(least=1),
        metavar="N",
        help="models: divide widths by N (default: 8 on a CPU, else 1)",
    )
    verb.add_argument(
        "--batch",
        type=integer(least=1),
        metavar="N",
        help="models: clips at once (default: 2 on a CPU, else 32 a device)",
    )
    verb.add_argument(
        "--by_part",
        action="store_true",
        help="models: measure nothing, and print FLOPs by part of the network; with "
        "--plan also the costs of the compiled programs",
    )
    verb.add_argument(
        "--steps",
        type=integer(least=1),
        default=20,
        metavar="N",
        help="timed runs (default: 20)",
    )
    verb.add_argument(
        "--forward",
        action="store_true",
        help="the network's forward pass in place of the train step",
    )
    verb.add_argument(
        "--sampler",
        action="store_true",
        help="the sampler in place of the train step",
    )
    verb.add_argument(
        "--profile",
        type=path,
        metavar="DIR",
        help="write a trace of a few more runs, and print where their time goes",
    )
    verb.add_argument(
        "--plan",
        metavar="CHIP:SHAPE",
        help="also print the forecast for a TPU topology",
    )
    verb.add_argument("--json", action="store_true", help="print JSON")
    add_processes(verb)
