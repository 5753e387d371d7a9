"""Options of the verbs `sample` and `judge`."""

from snapvideo_jax.cli.parsers.common import add, add_overwrite, add_sampler
from snapvideo_jax.io.options import SMALL_NOISE


def add_verbs(verbs) -> None:
    """Adds the verbs to a command line."""
    _add_sample(verbs)
    _add_extend(verbs)
    _add_search_noise(verbs)
    _add_judge(verbs)


def _add_sample(verbs) -> None:
    verb = add(
        verbs,
        "sample",
        "Sample clips from a trained model.",
        "Writes NUMBER.mp4 and NUMBER.json for every clip, and sheet.gif of them all.",
    )
    verb.add_argument("--workdir", metavar="DIR", help="of the run")
    _add_prompts(verb)
    verb.add_argument(
        "--save_trajectory",
        type=int,
        nargs="?",
        const=8,
        default=0,
        metavar="K",
        help="also write NUMBER-trajectory.gif and .png: what the network was shown at "
        "K noise levels (default 8), and what it made of it",
    )
    group = verb.add_argument_group(
        "video to video", "Noises a clip and makes it anew, as the prompts say."
    )
    group.add_argument("--from_clip", metavar="FILE", help="the clip, of any size")
    group.add_argument(
        "--strength",
        type=float,
        metavar="S",
        help="share of the steps that are taken anew: 0 gives the clip back, 1 has "
        "nothing left of it (default: 0.6)",
    )
    _add_cascade(verb)
    add_sampler(verb)


def _add_prompts(verb) -> None:
    """Options of what is sampled, and where it goes."""
    verb.add_argument("--prompt", action="append", help="a caption; may be repeated")
    verb.add_argument("--prompts", metavar="FILE", help="captions, one a line")
    verb.add_argument("--out", required=True, metavar="DIR")
    verb.add_argument("--num_samples", type=int, default=1, help="of each prompt")
    verb.add_argument(
        "--format",
        dest="formats",
        type=lambda text: tuple(text.split(",")),
        default=("mp4",),
        metavar="F,F",
        help="of mp4, gif, png (default: mp4)",
    )
    add_overwrite(verb)


def _add_extend(verbs) -> None:
    verb = add(
        verbs,
        "extend",
        "Sample videos of any length, also from frames that are known.",
        "Makes a video at rising frame-rates: at the lowest each clip goes on from\n"
        "the last frames, at higher ones clips fill in between. Known frames come\n"
        "back as they are. The same command goes on where it was stopped.",
    )
    verb.add_argument("--workdir", required=True, metavar="DIR", help="of the run")
    _add_prompts(verb)
    verb.add_argument("--frames", type=int, required=True, metavar="N")
    verb.add_argument(
        "--rates",
        metavar="F,F",
        help="rising frame-rates, the last that of the video (default: --fps, and a "
        "quarter of it where one clip is not enough)",
    )
    verb.add_argument(
        "--overlap",
        type=int,
        default=1,
        metavar="N",
        help="frames that a clip goes on from, at the lowest rate: 1, as in the paper; "
        "with more, motion keeps its speed",
    )
    verb.add_argument("--image", metavar="FILE", help="the first frame")
    verb.add_argument(
        "--known",
        action="append",
        metavar="N=FILE",
        help="frame N, from 0, or with a video it and those after it; may be repeated",
    )
    group = verb.add_argument_group("known frames", "How they are made use of.")
    group.add_argument(
        "--reconstruction", type=float, default=1.0, metavar="W", help="weight"
    )
    group.add_argument("--rule", default="posterior", help="posterior or paper")
    group.add_argument(
        "--products", type=int, default=2, help="backward passes of a network call"
    )
    add_sampler(verb)


def _add_search_noise(verbs) -> None:
    verb = add(
        verbs,
        "search_noise",
        "Find how much noise an upsampler's small clips are best given.",
        "Shrinks clips, enlarges them again at every amount, and compares. Writes\n"
        "search.json, search.png and sheet.gif, and prints the best amount.",
    )
    verb.add_argument("--cascade", required=True, metavar="DIR", help="of the run")
    verb.add_argument("--out", required=True, metavar="DIR")
    verb.add_argument(
        "--clips",
        metavar="DIR",
        help="files and captions.jsonl, held out best (default: the run's own data)",
    )
    verb.add_argument("--count", type=int, default=16, help="clips (default: 16)")
    verb.add_argument(
        "--grid",
        metavar="A,A",
        help="amounts, deviations in -1..1 (default: 11 from 0 to that of training)",
    )
    verb.add_argument(
        "--score", default="psnr", help="psnr (default), or sharpness of edges"
    )
    verb.set_defaults(small_noise=0.0)
    for name in ("steps", "solver", "guidance", "batch"):
        verb.set_defaults(**{f"cascade_{name}": None})
    add_sampler(verb)


def _add_cascade(verb) -> None:
    group = verb.add_argument_group(
        "cascade",
        "Both stages: --workdir of the first and --cascade. The second alone: "
        "--cascade and --small_clips. Other options are of the first stage.",
    )
    group.add_argument("--cascade", metavar="DIR", help="workdir of the upsampler")
    group.add_argument(
        "--small_clips",
        metavar="DIR",
        help="clips to enlarge: NUMBER.json and .png or .mp4 as this verb writes them, "
        "or files and captions.jsonl",
    )
    group.add_argument(
        "--small_noise",
        type=float,
        default=SMALL_NOISE,
        metavar="A",
        help="noise that small clips are given, a deviation in -1..1 "
        f"(default {SMALL_NOISE}); see search_noise",
    )
    group.add_argument("--cascade_steps", type=int, help="default: the upsampler's")
    group.add_argument("--cascade_solver", help="default: the upsampler's")
    group.add_argument(
        "--cascade_guidance", type=float, metavar="G", help="default: the upsampler's"
    )
    group.add_argument("--cascade_batch", type=int, help="default: --batch")


def _add_judge(verbs) -> None:
    verb = add(
        verbs,
        "judge",
        "Sample held-out prompts of the shapes data set, and count those obeyed.",
        "Prints the share of clips whose colour, shape and direction are all as\n"
        "asked, and writes judged.json and sheet.gif.",
    )
    verb.add_argument("--workdir", required=True, metavar="DIR", help="of the run")
    verb.add_argument("--out", required=True, metavar="DIR")
    verb.add_argument("--count", type=int, default=64, help="prompts (default: 64)")
    add_sampler(verb)
