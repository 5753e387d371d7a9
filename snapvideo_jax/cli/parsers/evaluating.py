"""Options of the verbs `evaluate`, `convert` and `compare`."""

import argparse

from snapvideo_jax.cli.parsers.common import add, add_processes

EVALUATE_HELP = """\
Clips are a folder (videos, strips of frames side by side, folders of frames, .npz), or
a manifest: one JSON object a line with index, video and, where there are some, prompt,
class and seed. Real clips are the same, or statistics that an earlier run wrote (its
folder statistics or real_statistics), or an .npz with mu and sigma. The same command
goes on where it was stopped. docs/evaluation.md has the networks and the variants:

  --clips samples --against real --metrics fvd,clipsim --weights nets --out scores
"""

CONVERT_HELP = """\
Reads .safetensors, Chainer's .npz, Flax's msgpack, TorchScript archives, and (with pip
install 'snapvideo_jax[convert]') state dicts of PyTorch. docs/evaluation.md lists the
files that are known.
"""


def add_verbs(verbs) -> None:
    """Adds the verbs to a command line."""
    _add_evaluate(verbs)
    _add_convert(verbs)
    _add_compare(verbs)


def _add_evaluate(verbs) -> None:
    verb = add(
        verbs,
        "evaluate",
        "Score clips: FVD, FID, IS, CLIPSIM, CLIP-FID.",
        EVALUATE_HELP,
    )
    verb.add_argument("--clips", metavar="PATH", help="what is scored")
    verb.add_argument("--against", metavar="PATH", help="real clips or statistics")
    verb.add_argument("--out", metavar="DIR", help="result, statistics and shards")
    verb.add_argument(
        "--metrics",
        default="fvd",
        metavar="M,M",
        help="of fvd, fid, is, clipsim, clip_fid (default: fvd)",
    )
    verb.add_argument("--weights", metavar="DIR", help="of NETWORK.safetensors")
    verb.add_argument(
        "--features", metavar="random:SEED", help="random networks, to try things out"
    )
    _add_protocol(verb)
    verb.add_argument("--batch", type=int, default=8, help="clips at once (default: 8)")
    verb.add_argument(
        "--shards", type=int, default=8, help="parts that can be resumed (default: 8)"
    )
    verb.add_argument("--threads", type=int, help="that read clips (default: cores)")
    verb.add_argument(
        "--selfcheck",
        action="store_true",
        help="compute published numbers with the weights, and nothing else",
    )
    verb.add_argument(
        "--anchors",
        default="anchors",
        metavar="DIR",
        help="of the files that --selfcheck asks for (default: anchors)",
    )
    add_processes(verb)


def _add_protocol(verb: argparse.ArgumentParser) -> None:
    """Options that change what `snapvideo evaluate` computes; results name them."""
    group = verb.add_argument_group("what is computed", "Results tell all of it.")
    positions = ("start", "center", "random")
    group.add_argument(
        "--frames", type=int, default=16, help="of each clip (default: 16)"
    )
    group.add_argument("--fps", type=float, help="of the frames (default: all frames)")
    group.add_argument(
        "--position", choices=positions, default="start", help="(default: start)"
    )
    group.add_argument("--real_fps", type=float, help="of real clips, if another")
    group.add_argument(
        "--real_position", choices=positions, help="of real clips, if another"
    )
    group.add_argument("--seed", type=int, default=0, help="of random positions")
    group.add_argument(
        "--size", metavar="HxW", help="that clips are brought to (default: their own)"
    )
    group.add_argument(
        "--view",
        choices=("native", "square"),
        default="native",
        help="square takes the middle of the shorter side (default: native)",
    )
    group.add_argument(
        "--image_frames",
        default="all",
        metavar="all|middle|N",
        help="frames of a clip for FID and CLIP-FID (default: all)",
    )
    group.add_argument("--fvd", metavar="V", help="stylegan-v (default), tf, videogpt")
    group.add_argument("--fid", metavar="V", help="tf (default), pytorch-fid, clean")
    group.add_argument("--clip", metavar="V", help="openai (default), squash")
    group.add_argument(
        "--splits", type=int, default=10, help="of the Inception score (default: 10)"
    )


def _add_convert(verbs) -> None:
    verb = add(
        verbs,
        "convert",
        "Convert a network that evaluate uses from a published checkpoint.",
        CONVERT_HELP,
    )
    verb.add_argument(
        "--network", required=True, choices=("i3d", "inception", "c3d", "clip")
    )
    verb.add_argument("--weights", required=True, metavar="FILE")
    verb.add_argument("--out", required=True, metavar="FILE.safetensors")
    verb.add_argument("--mean", metavar="FILE", help="of c3d: mean2.npz, if elsewhere")
    verb.add_argument(
        "--quick_gelu",
        action="store_true",
        help="of clip: it was trained with QuickGELU, though no config says so",
    )


def _add_compare(verbs) -> None:
    verb = add(
        verbs,
        "compare",
        "Show two results of evaluate, if they were computed alike.",
        "Names the fields that differ where they were not.",
    )
    verb.add_argument("one", metavar="A.json")
    verb.add_argument("other", metavar="B.json")
