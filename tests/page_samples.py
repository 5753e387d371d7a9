"""What the tests of pages share: folders of samples, and files of votes."""

import json

from snapvideo_jax.data.shapes import dataset
from snapvideo_jax.evaluation.pages.study import StudyOptions, build_study
from snapvideo_jax.io.media import write_mp4

HOSTILE = (
    "<script>document.title = 'owned'</script> & <b>a</b> \"red\" square </script>"
)
"""A prompt that is a page itself unless it is shown as text."""
PROMPTS = ("a red square moves left", HOSTILE, "ein grünes Dreieck, 向右")


def write_samples(folder, prompts=PROMPTS, frames=8, fps=8.0, size=16, seed=0):
    """A folder as `snapvideo sample` writes it, of shapes."""
    folder.mkdir(parents=True)
    for number, prompt in enumerate(prompts):
        scene = dataset.sample_scene(seed, number, "train")
        clip = dataset.render(scene, frames=frames, fps=fps, size=size)
        write_mp4(folder / f"{number:05d}.mp4", clip, fps)
        about = {"prompt": prompt, "number": number, "step": 10, "guidance": 2.0}
        (folder / f"{number:05d}.json").write_text(json.dumps(about))
    return folder


def write_study(root):
    """A study of three methods: its page, and the file of its key."""
    made = {
        "ours": dict(frames=8, fps=8.0, size=16),
        "rival": dict(frames=24, fps=12.0, size=24),
        "third": dict(frames=24, fps=24.0, size=16),
    }
    methods = {
        name: write_samples(root / f"made-by-{name}", seed=number, **made[name])
        for number, name in enumerate(made)
    }
    options = StudyOptions(
        methods=methods, prompts=PROMPTS, out=root / "page", key=root / "key.json"
    )
    build_study(options)
    return root / "page", root / "key.json"


def shown_data(page):
    """What the page of a study or gallery was given to show."""
    html = (page / "index.html").read_text(encoding="utf-8")
    return json.loads(html.split('type="application/json">')[1].split("</script>")[0])


def write_votes(path, key, rater, choose):
    """A file of votes on all pairs; ``choose`` gives the method voted for.

    Its arguments are the pair, as the key has it, and the question.
    """
    votes = []
    for pair, about in key["pairs"].items():
        for question in key["questions"]:
            method = choose(about, question)
            side = next(side for side in "ab" if about[side] == method)
            votes.append({"pair": pair, "question": question, "choice": side})
    content = {"format": 1, "study": key["study"], "rater": rater, "votes": votes}
    path.write_text(json.dumps(content))
    return path
