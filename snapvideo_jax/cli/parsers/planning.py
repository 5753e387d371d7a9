"""Options of the verbs `plan` and `bench`."""

from snapvideo_jax.cli.parsers.common import CONFIG_HELP, add, add_processes

PLAN_HELP = """\
A plan that does not fit says by how much and what would fit. Every compilation is kept
in ~/.cache/snapvideo/plans, so the same question is answered at once, and a search that
was stopped goes on. A search leaves fields alone that --config. sets. Steps, solver and
guidance of the sampler are those of the config:

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
    verb.add_argument("--config", metavar="FILE[:ARG]", help="what is planned")
    verb.add_argument("--topology", metavar="CHIP:SHAPE", help="as v5p:4x4x8")
    verb.add_argument("--slices", type=int, default=1, help="of it (default: 1)")
    verb.add_argument(
        "--sampler", action="store_true", help="plan the sampler, not the train step"
    )
    verb.add_argument(
        "--batch", type=int, help="clips that it makes at once (default: 64)"
    )
    verb.add_argument(
        "--search",
        action="store_true",
        help="find the fastest remat, microbatches and mesh that fit",
    )
    verb.add_argument(
        "--search_limit",
        type=int,
        metavar="N",
        help="compilations of the search, minutes each (default: 12)",
    )
    verb.add_argument(
        "--layout",
        action="store_true",
        help="print how parameters are divided over the topology; compiles nothing",
    )
    verb.add_argument(
        "--flags",
        metavar="FILE",
        help="write the compiler's flags that a run should use, to be sourced",
    )
    verb.add_argument(
        "--golden",
        metavar="NAME",
        help="write docs/plans/NAME.json and docs/plans.md of a checkout anew; names "
        "with commas between, small, or all",
    )
    verb.add_argument("--json", action="store_true", help="print JSON")


def _add_bench(verbs) -> None:
    verb = add(
        verbs,
        "bench",
        "Measure a config on the devices that are here: time, rates, memory.",
        CONFIG_HELP,
        takes_overrides=True,
    )
    verb.add_argument(
        "what",
        nargs="?",
        choices=("step", "data", "models"),
        default="step",
        help="the train step (default), the reading of data on the host's cores, or "
        "FIT, the U-Nets and DiTs beside each other",
    )
    verb.add_argument(
        "--step_seconds",
        type=float,
        metavar="S",
        help="of data: a step of the pod, where no --plan tells it",
    )
    verb.add_argument("--config", metavar="FILE[:ARG]", help="of step and data")
    verb.add_argument("--only", metavar="NAME,NAME", help="of models: some of them")
    verb.add_argument(
        "--divide",
        type=int,
        metavar="N",
        help="of models: make widths smaller (default: 8 on a CPU, else 1)",
    )
    verb.add_argument("--batch", type=int, help="of models: clips at once")
    verb.add_argument(
        "--by_part",
        action="store_true",
        help="of models: measure nothing, and print where the work lies, by part of "
        "the network; with --plan that of the compiled programs too",
    )
    verb.add_argument(
        "--steps", type=int, default=20, help="runs that are timed (default: 20)"
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
        metavar="DIR",
        help="trace a few more runs there, and print where their time goes",
    )
    verb.add_argument(
        "--plan", metavar="CHIP:SHAPE", help="show the forecast for a TPU topology too"
    )
    verb.add_argument("--json", action="store_true", help="print JSON")
    add_processes(verb)
