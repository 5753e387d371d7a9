"""Options of the verbs `sample` and `judge`."""

from snapvideo_jax.cli.shared import add, add_overwrite, add_sampler


def add_verbs(verbs) -> None:
    """Adds the verbs to a command line."""
    _add_sample(verbs)
    _add_judge(verbs)


def _add_sample(verbs) -> None:
    verb = add(
        verbs,
        "sample",
        "Sample clips from a trained model.",
        "Writes NUMBER.mp4 and NUMBER.json for every clip, and sheet.gif of them all.",
    )
    verb.add_argument("--workdir", required=True, metavar="DIR", help="of the run")
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
    add_sampler(verb)


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
