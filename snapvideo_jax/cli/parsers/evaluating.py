"""Options of the verbs `evaluate`, `convert` and `compare`."""

import argparse

from snapvideo_jax.cli.parsers.common import add, add_processes
from snapvideo_jax.cli.parsers.types import integer, number, path, several

EVALUATE_HELP = """\
Clips are a folder (videos, strips of frames side by side, folders of frames, .npz) or a
manifest: one JSON object per line with index, video and optionally prompt, class and
seed. Real clips are the same, or statistics that an earlier run wrote (its folder
statistics or real_statistics), or an .npz with mu and sigma. Run the same command to
resume. docs/evaluation.md describes the networks and the variants:

  --clips samples --against real --metrics fvd,clipsim --weights nets --out scores
"""

CONVERT_HELP = """\
Reads .safetensors, Chainer's .npz, Flax's msgpack, TorchScript archives, and (with pip
install 'snapvideo_jax[convert]') state dicts of PyTorch. docs/evaluation.md lists the
supported files.
"""


def add_verbs(verbs) -> None:
    """Adds the verbs to a command line."""
    _add_evaluate(verbs)
    _add_convert(verbs)
    _add_compare(verbs)


def add_scorer(verb: argparse.ArgumentParser) -> None:
    """Options of `evaluation.settings.ScorerOptions`."""
    option = verb.add_argument
    option("--weights", type=path, metavar="DIR", help="folder of NETWORK.safetensors")
    option("--features", metavar="random:SEED", help="random networks, for trials")
    for name, variants in (
        ("fvd", "stylegan-v (default), tf, videogpt"),
        ("fid", "tf (default), pytorch-fid, clean"),
        ("clip", "openai (default), squash"),
    ):
        option(f"--{name}", metavar="V", help=f"preprocessing: {variants}")
    for name, default, text in (
        ("splits", 10, "splits of the Inception score (default: 10)"),
        ("batch", 8, "clips that are computed at once (default: 8)"),
        ("shards", 8, "parts of a set that can be resumed (default: 8)"),
        ("threads", None, "that read clips (default: number of cores)"),
    ):
        kind = integer(least=1)
        option(f"--{name}", type=kind, default=default, metavar="N", help=text)


def _add_evaluate(verbs) -> None:
    text = "Score clips: FVD, FID, IS, CLIPSIM, CLIP-FID."
    verb = add(verbs, "evaluate", text, EVALUATE_HELP)
    option = verb.add_argument
    option("--clips", type=path, required=True, metavar="PATH", help="generated clips")
    option("--against", type=path, metavar="PATH", help="real clips or statistics")
    option("--out", type=path, required=True, metavar="DIR", help="result and shards")
    option(
        "--metrics",
        type=several(str),
        default=("fvd",),
        metavar="M,M",
        help="of fvd, fid, is, clipsim, clip_fid (default: fvd)",
    )
    add_scorer(verb)
    group = verb.add_argument_group("frames", "Results record all of these.")
    _add_selection(group.add_argument)
    add_processes(verb)


def _add_selection(option) -> None:
    """Options of the frames that are scored."""
    positions, rate = ("start", "center", "random"), number(above=0)
    option(
        "--frames", type=integer(least=1), default=16, help="of a clip (default: 16)"
    )
    option("--fps", type=rate, help="frame rate (default: consecutive frames)")
    option(
        "--position",
        choices=positions,
        default="start",
        help="of the frames in a clip (default: start)",
    )
    option("--real_fps", type=rate, help="of the real clips (default: that of --fps)")
    option(
        "--real_position",
        choices=positions,
        help="in the real clips (default: that of --position)",
    )
    option("--seed", type=integer(least=0), default=0, help="of random positions")
    option(
        "--size",
        type=_size,
        metavar="HxW",
        help="that all clips are resized to first (default: their own)",
    )
    option(
        "--view",
        choices=("native", "square"),
        default="native",
        help="square crops the central square (default: native)",
    )
    option(
        "--image_frames",
        default="all",
        metavar="all|middle|N",
        help="frames of a clip for FID and CLIP-FID (default: all)",
    )


def _size(text: str) -> tuple[int, int]:
    height, x, width = text.partition("x")
    if not (x and height.isdecimal() and width.isdecimal()):
        raise argparse.ArgumentTypeError(
            f"{text} is not a size; use HEIGHTxWIDTH, as 36x64."
        )
    return int(height), int(width)


def _add_convert(verbs) -> None:
    verb = add(
        verbs,
        "convert",
        "Convert a published checkpoint of a network that evaluate uses.",
        CONVERT_HELP,
    )
    verb.add_argument(
        "--network", required=True, choices=("i3d", "inception", "c3d", "clip")
    )
    verb.add_argument("--weights", type=path, required=True, metavar="FILE")
    verb.add_argument("--out", type=path, required=True, metavar="FILE.safetensors")
    verb.add_argument(
        "--mean",
        type=path,
        metavar="FILE",
        help="of c3d: mean2.npz (default: in the folder of --weights)",
    )
    verb.add_argument(
        "--quick_gelu",
        action="store_true",
        help="of clip: it was trained with QuickGELU, although no config says so",
    )


def _add_compare(verbs) -> None:
    verb = add(
        verbs,
        "compare",
        "Print two results of evaluate side by side, if they are comparable.",
        "Results of other settings are refused with the names of the fields.",
    )
    verb.add_argument("one", type=path, metavar="A.json")
    verb.add_argument("other", type=path, metavar="B.json")
