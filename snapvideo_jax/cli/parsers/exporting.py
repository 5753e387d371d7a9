"""Options of the verbs `export`, `verify` and `import`."""

import argparse

from snapvideo_jax.cli.parsers.common import add

EXPORT_HELP = """\
OUT becomes a folder with config.json, README.md (a model card) and, by --format:

  bundle     the weights as safetensors
  stablehlo  the same, and the denoiser and the whole sampler as programs that JAX alone
             runs, on the --platforms and at any batch size
  orbax      the weights as an Orbax checkpoint

Several go with commas between. docs/export.md tells how each is used.
"""

IMPORT_HELP = """\
The weights become step 0 of a new run, with the bundle's config; --config. changes what
is to be other, such as the data. Then snapvideo train --workdir DIR trains on:

  snapvideo import BUNDLE --workdir DIR --config.data.root=FOLDER
  snapvideo train --workdir DIR
"""


def add_verbs(verbs) -> None:
    """Adds the verbs to a command line."""
    _add_export(verbs)
    _add_verify(verbs)
    _add_import(verbs)


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _add_export(verbs) -> None:
    verb = add(verbs, "export", "Take a run's model away, as a folder.", EXPORT_HELP)
    verb.add_argument("--workdir", required=True, metavar="DIR", help="of the run")
    verb.add_argument("--out", required=True, metavar="OUT", help="an empty folder")
    verb.add_argument(
        "--cascade",
        metavar="DIR",
        help="of an upsampler's run; OUT then has the folders base and upsampler",
    )
    verb.add_argument(
        "--format",
        dest="formats",
        type=_names,
        default=("bundle",),
        metavar="F,F",
        help="of bundle, stablehlo, orbax (default: bundle)",
    )
    _add_weights(verb, "raw, ema, or a folder of snapvideo ema (default: ema)", "ema")
    verb.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="of the stored weights (default: float32)",
    )
    verb.add_argument(
        "--platforms",
        type=_names,
        default=("tpu", "cuda", "cpu"),
        metavar="P,P",
        help="of the programs (default: tpu,cuda,cpu)",
    )
    verb.add_argument(
        "--prompt",
        action="append",
        help="a caption whose embedding is put beside, to try the model with; may be "
        "repeated (default: some of the config's, where its text encoder is hash)",
    )
    verb.add_argument(
        "--shard_gb",
        type=float,
        default=5.0,
        metavar="GB",
        help="most of one weights file (default: 5)",
    )
    group = verb.add_argument_group("the exported sampler")
    group.add_argument("--steps", type=int, help="noise levels (default: the config's)")
    group.add_argument("--solver", help="(default: the config's)")
    group.add_argument("--churn", type=float, help="(default: the config's)")
    group.add_argument("--cascade_steps", type=int, help="default: the upsampler's")
    group.add_argument("--cascade_solver", help="default: the upsampler's")


def _add_verify(verbs) -> None:
    verb = add(
        verbs,
        "verify",
        "Compare what a bundle makes with what the run makes.",
        "Programs run in a fresh process that has JAX alone. Exits with 1 where the\n"
        "largest difference is above the tolerance.",
    )
    verb.add_argument("bundle", metavar="BUNDLE", help="of snapvideo export")
    verb.add_argument("--workdir", required=True, metavar="DIR", help="of the run")
    _add_weights(verb, "of the run (default: those that the bundle tells)", None)
    verb.add_argument(
        "--tolerance",
        type=float,
        default=1e-5,
        metavar="T",
        help="most that pixels in -1..1 may differ (default: 1e-5)",
    )


def _add_import(verbs) -> None:
    verb = add(
        verbs,
        "import",
        "Begin a run with a bundle's weights.",
        IMPORT_HELP,
        takes_overrides=True,
    )
    verb.add_argument("bundle", metavar="BUNDLE", help="of snapvideo export")
    verb.add_argument("--workdir", required=True, metavar="DIR", help="of the new run")


def _add_weights(verb: argparse.ArgumentParser, help: str, default) -> None:
    verb.add_argument("--weights", metavar="W", default=default, help=help)
