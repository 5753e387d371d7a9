"""Options of the verbs `sample`, `extend`, `search_noise` and `judge`."""

import argparse
from pathlib import Path

from snapvideo_jax.cli.parsers.common import add, add_overwrite, add_sampler
from snapvideo_jax.cli.parsers.types import integer, number, path, several
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
        "Writes NUMBER.json and the files of every clip, and sheet.gif of them all.\n"
        "The same command samples only clips that --out lacks.",
    )
    verb.add_argument("--workdir", type=path, metavar="DIR", help="of the run")
    _add_prompts(verb)
    verb.add_argument(
        "--save_trajectory",
        type=integer(least=0),
        nargs="?",
        const=8,
        default=0,
        metavar="K",
        help="also write NUMBER-trajectory.gif and .png: network inputs and estimates "
        "at K noise levels (default: 8)",
    )
    group = verb.add_argument_group(
        "video to video", "Adds noise to a clip and samples from there."
    )
    group.add_argument(
        "--from_clip", type=path, metavar="FILE", help="the clip, of any size"
    )
    group.add_argument(
        "--strength",
        type=number(least=0, most=1),
        metavar="S",
        help="share of the steps that are sampled: 0 returns the clip, 1 retains "
        "nothing of it (default: 0.6)",
    )
    _add_cascade(verb)
    add_sampler(verb)


def _add_prompts(verb) -> None:
    """Options of `sampling.PromptOptions`."""
    verb.add_argument(
        "--prompt",
        action="append",
        default=[],
        metavar="TEXT",
        help="a caption; may be repeated",
    )
    verb.add_argument(
        "--prompts", type=path, metavar="FILE", help="captions, one a line"
    )
    verb.add_argument(
        "--out", type=path, required=True, metavar="DIR", help="folder of the clips"
    )
    verb.add_argument(
        "--num_samples",
        type=integer(least=1),
        default=1,
        metavar="N",
        help="clips of each prompt (default: 1)",
    )
    verb.add_argument(
        "--format",
        dest="formats",
        type=several(str),
        default=("mp4",),
        metavar="F,F",
        help="of mp4, gif, png (default: mp4)",
    )
    add_overwrite(verb)


def _add_extend(verbs) -> None:
    verb = add(
        verbs,
        "extend",
        "Sample videos of any length, also from known frames.",
        "Samples a video at rising frame rates: at the lowest each clip continues\n"
        "from the last frames, at higher ones clips fill the gaps. Known frames come\n"
        "back unchanged. Run the same command to resume.",
    )
    verb.add_argument(
        "--workdir", type=path, required=True, metavar="DIR", help="of the run"
    )
    _add_prompts(verb)
    verb.add_argument(
        "--frames",
        type=integer(least=1),
        required=True,
        metavar="N",
        help="of each video",
    )
    verb.add_argument(
        "--rates",
        type=several(float),
        metavar="F,F",
        help="rising frame rates, the last that of the video (default: --fps, and a "
        "quarter of it where one clip is too short)",
    )
    verb.add_argument(
        "--overlap",
        type=int,
        default=1,
        metavar="N",
        help="frames that a clip continues from, at the lowest rate (default: 1, as in "
        "the paper); with more, motion retains its speed",
    )
    verb.add_argument("--image", type=path, metavar="FILE", help="the first frame")
    verb.add_argument(
        "--known",
        action="append",
        type=_known,
        default=[],
        metavar="N=FILE",
        help="frame N, from 0, or with a video it and those after it; may be repeated",
    )
    group = verb.add_argument_group(
        "reconstruction guidance", "Samples the frames around known ones."
    )
    group.add_argument(
        "--reconstruction",
        type=number(),
        default=1.0,
        metavar="W",
        help="weight (default: 1)",
    )
    group.add_argument(
        "--rule",
        default="posterior",
        metavar="R",
        help="posterior (default) or paper",
    )
    group.add_argument(
        "--products",
        type=integer(least=1),
        default=2,
        metavar="N",
        help="backward passes in each network call (default: 2)",
    )
    add_sampler(verb)


def _known(text: str) -> tuple[int, Path]:
    """ "7=FILE": frame 7 and its file."""
    index, _, file = text.partition("=")
    if not index.isdecimal() or not file:
        raise argparse.ArgumentTypeError(
            f"{text} is not a frame's number and a file; use N=FILE, as 0=first.png."
        )
    return int(index), path(file)


def _add_search_noise(verbs) -> None:
    verb = add(
        verbs,
        "search_noise",
        "Find the best noise level for an upsampler's small clips.",
        "Shrinks clips, enlarges them at every noise level, and compares. Writes\n"
        "search.json, search.png and sheet.gif, and prints the best level.",
    )
    verb.add_argument(
        "--cascade", type=path, required=True, metavar="DIR", help="of the run"
    )
    verb.add_argument(
        "--out", type=path, required=True, metavar="DIR", help="folder of the results"
    )
    verb.add_argument(
        "--clips",
        type=path,
        metavar="DIR",
        help="files and captions.jsonl, best held out (default: the run's data)",
    )
    verb.add_argument(
        "--count",
        type=integer(least=1),
        default=16,
        metavar="N",
        help="clips (default: 16)",
    )
    verb.add_argument(
        "--grid",
        type=several(float),
        metavar="A,A",
        help="noise levels, standard deviations in -1..1 (default: 11 from 0 to the "
        "largest of training)",
    )
    verb.add_argument(
        "--score",
        default="psnr",
        metavar="S",
        help="psnr (default), or sharpness of edges",
    )
    add_sampler(verb)


def _add_cascade(verb) -> None:
    group = verb.add_argument_group(
        "cascade",
        "Both stages: --workdir of the first and --cascade. The second alone: "
        "--cascade and --small_clips. Other options apply to the first stage.",
    )
    group.add_argument(
        "--cascade", type=path, metavar="DIR", help="workdir of the upsampler"
    )
    group.add_argument(
        "--small_clips",
        type=path,
        metavar="DIR",
        help="clips to enlarge: NUMBER.json and .png or .mp4 as this verb writes them, "
        "or files and captions.jsonl",
    )
    group.add_argument(
        "--small_noise",
        type=number(least=0),
        default=SMALL_NOISE,
        metavar="A",
        help="noise that is added to small clips, a standard deviation in -1..1 "
        f"(default: {SMALL_NOISE}); see search_noise",
    )
    group.add_argument(
        "--cascade_steps",
        type=integer(least=1),
        metavar="N",
        help="default: the upsampler's",
    )
    group.add_argument("--cascade_solver", metavar="S", help="default: the upsampler's")
    group.add_argument(
        "--cascade_guidance",
        type=number(),
        metavar="G",
        help="default: the upsampler's",
    )
    group.add_argument(
        "--cascade_batch",
        type=integer(least=1),
        metavar="N",
        help="default: --batch",
    )


def _add_judge(verbs) -> None:
    verb = add(
        verbs,
        "judge",
        "Sample held-out prompts of the shapes data set, and count those obeyed.",
        "Prints the share of clips with the colour, shape and direction of their\n"
        "prompt, and writes judged.json and sheet.gif.",
    )
    verb.add_argument(
        "--workdir", type=path, required=True, metavar="DIR", help="of the run"
    )
    verb.add_argument(
        "--out", type=path, required=True, metavar="DIR", help="folder of the results"
    )
    verb.add_argument(
        "--count",
        type=integer(least=1),
        default=64,
        metavar="N",
        help="prompts (default: 64)",
    )
    add_sampler(verb)
