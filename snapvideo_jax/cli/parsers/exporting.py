"""Options of the verbs `export`, `verify` and `import`."""

from snapvideo_jax.cli.parsers.common import add
from snapvideo_jax.cli.parsers.types import integer, number, path, several

EXPORT_HELP = """\
OUT becomes a folder with config.json, README.md (a model card) and, by --format:

  bundle     the weights as safetensors
  stablehlo  the same, with the denoiser and the whole sampler as programs that run
             with JAX alone, on the --platforms and at any batch size
  orbax      the weights as an Orbax checkpoint

Separate several formats with commas. docs/export.md shows how each is used.
"""

IMPORT_HELP = """\
The weights become step 0 of a new run with the bundle's config; --config. overrides
change it, for example its data. Then snapvideo train --workdir DIR trains it:

  snapvideo import BUNDLE --workdir DIR --config.data.root=FOLDER
  snapvideo train --workdir DIR
"""


def add_verbs(verbs) -> None:
    """Adds the verbs to a command line."""
    _add_export(verbs)
    _add_verify(verbs)
    _add_import(verbs)


def _add_export(verbs) -> None:
    verb = add(verbs, "export", "Export the model of a run as a bundle.", EXPORT_HELP)
    verb.add_argument(
        "--workdir", type=path, required=True, metavar="DIR", help="of the run"
    )
    verb.add_argument(
        "--out",
        type=path,
        required=True,
        metavar="OUT",
        help="folder of the bundle, empty or new",
    )
    verb.add_argument(
        "--cascade",
        type=path,
        metavar="DIR",
        help="workdir of an upsampler; OUT then gets the folders base and upsampler",
    )
    verb.add_argument(
        "--format",
        dest="formats",
        type=several(str),
        default=("bundle",),
        metavar="F,F",
        help="some of bundle, stablehlo, orbax (default: bundle)",
    )
    verb.add_argument(
        "--weights",
        metavar="W",
        default="ema",
        help="raw, ema, or a folder of snapvideo ema (default: ema)",
    )
    verb.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="of the stored weights (default: float32)",
    )
    verb.add_argument(
        "--platforms",
        type=several(str),
        default=("tpu", "cuda", "cpu"),
        metavar="P,P",
        help="that the programs run on (default: tpu,cuda,cpu)",
    )
    verb.add_argument(
        "--prompt",
        action="append",
        default=[],
        metavar="TEXT",
        help="a caption whose embedding is stored as an example input; may be repeated "
        "(default: some of the config's, where its text encoder is hash)",
    )
    verb.add_argument(
        "--shard_gb",
        type=number(least=0),
        default=5.0,
        metavar="GB",
        help="largest size of a weights file (default: 5)",
    )
    group = verb.add_argument_group("the exported sampler")
    group.add_argument(
        "--steps",
        type=integer(least=1),
        metavar="N",
        help="noise levels (default: the config's)",
    )
    group.add_argument("--solver", help="(default: the config's)")
    group.add_argument("--churn", type=number(least=0), help="(default: the config's)")
    group.add_argument(
        "--cascade_steps",
        type=integer(least=1),
        metavar="N",
        help="of the upsampler (default: its config's)",
    )
    group.add_argument(
        "--cascade_solver", help="of the upsampler (default: its config's)"
    )


def _add_verify(verbs) -> None:
    verb = add(
        verbs,
        "verify",
        "Compare the outputs of a bundle with those of its run.",
        "Programs run in a new process that has JAX alone. Exits with 1 if the\n"
        "largest difference exceeds the tolerance.",
    )
    verb.add_argument(
        "bundle", type=path, metavar="BUNDLE", help="folder of snapvideo export"
    )
    verb.add_argument(
        "--workdir", type=path, required=True, metavar="DIR", help="of the run"
    )
    verb.add_argument(
        "--weights",
        metavar="W",
        help="of the run: raw, ema, or a folder of snapvideo ema (default: those that "
        "the bundle names)",
    )
    verb.add_argument(
        "--tolerance",
        type=number(least=0),
        default=1e-5,
        metavar="T",
        help="largest difference of pixels in -1..1 that passes (default: 1e-5)",
    )


def _add_import(verbs) -> None:
    verb = add(
        verbs,
        "import",
        "Begin a run with the weights of a bundle.",
        IMPORT_HELP,
        takes_overrides=True,
    )
    verb.add_argument(
        "bundle", type=path, metavar="BUNDLE", help="folder of snapvideo export"
    )
    verb.add_argument(
        "--workdir",
        type=path,
        required=True,
        metavar="DIR",
        help="of the new run, empty or new",
    )
