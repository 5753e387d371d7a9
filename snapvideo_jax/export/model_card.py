"""The model card: README.md of a bundle, generated from the run."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from snapvideo_jax.data.prepare.config import MANIFEST
from snapvideo_jax.io import json_lines
from snapvideo_jax.io.json_lines import read_metrics

CARD = "README.md"
SCORES = ("judged.json", "result.json")
"""Files of `snapvideo judge` and `snapvideo evaluate`."""


def model_card(
    experiment, workdir: Path, about: Mapping[str, Any], parameters: int
) -> str:
    """The card as Markdown.

    Args:
      experiment: of the run, a `config.Experiment`.
      workdir: of the run; metrics are read from it.
      about: step, weights and dtype that are exported, and the config as JSON.
      parameters: their number.
    """
    sections = {
        "What it is": _what(experiment, about, parameters),
        "Use": _use(experiment, about),
        "Training": _training(experiment, workdir, about),
        "Data": _data(about["config"]["data"]),
        "Metrics": _metrics(workdir),
        "Limits": _limits(experiment, about),
    }
    parts = [f"## {title}\n\n{text}" for title, text in sections.items()]
    return "\n\n".join([f"# {workdir.resolve().name}", *parts]) + "\n"


def _what(experiment, about, parameters: int) -> str:
    model, edm = experiment.model, experiment.diffusion
    kind = "An upsampler" if model.is_upsampler else "A text-to-video model"
    return (
        f"{kind} as in Snap Video (arXiv 2402.14797): {type(model).__name__}, "
        f"{parameters:,} parameters, {model.frames} frames of "
        f"{model.width}x{model.height} px, sigma_in {edm.sigma_in:g}. The "
        f"{about['weights']} weights after step {about['step']:,}, in {about['dtype']}."
    )


def _use(experiment, about) -> str:
    commands = [
        "snapvideo verify BUNDLE --workdir RUN      # compares with the run",
        "snapvideo import BUNDLE --workdir NEW      # then: snapvideo train ...",
    ]
    if "stablehlo" in about["formats"]:
        small = "--small SMALL " if experiment.model.is_upsampler else ""
        commands.append(
            f"python stablehlo/run.py --inputs INPUTS {small}--out frames.npz   "
            "# JAX alone"
        )
    return "```bash\n" + "\n".join(commands) + "\n```"


def _training(experiment, workdir: Path, about) -> str:
    optimizer, data = experiment.optimizer, experiment.data
    text = (
        f"{about['step']:,} of {optimizer.steps:,} steps of {data.batch:,} samples "
        f"({data.videos_per_batch} videos, {data.images_per_batch} images), "
        f"{optimizer.name}, peak learning rate {optimizer.learning_rate:g}, seed "
        f"{experiment.seed}. All settings are in config.json."
    )
    losses = [
        line
        for line in json_lines.read(workdir / "metrics.jsonl")
        if line.get("step", 0) <= about["step"] and line.get("loss") is not None
    ]
    if losses:
        last = losses[-1]
        text += (
            f"\n\nTraining loss at step {last['step']:,}: {last['loss']:.4g} "
            "(metrics.jsonl of the run)."
        )
    return text


def _data(data: Mapping[str, Any]) -> str:
    """The training data, as far as it is known."""
    parts = dict(data.get("mixture") or {}) or {"": data}
    lines = []
    for name, part in parts.items():
        root = Path(part.get("root") or "")
        called = f"{name}: " if name else ""
        lines.append(f"- {called}`{root.name or part.get('source')}`, {_held(root)}")
    lines.append(
        "\nOrigin and licence of the data are not known to this card; add them before "
        "you publish the model."
    )
    return "\n".join(lines)


def _held(root: Path) -> str:
    """The sizes in the manifest of `snapvideo prepare`, in a folder or its parent."""
    found = [path / MANIFEST for path in (root, root.parent)]
    path = next((path for path in found if str(root) != "." and path.is_file()), None)
    if path is None:
        return "without a manifest"
    try:
        stages = json.loads(path.read_bytes())["stages"]
        kinds = stages.get(root.name) or next(iter(stages.values()))
        sizes = [
            f"{kind['records']:,} {name} ({kind['hours']:,.4g} hours)"
            for name, kind in kinds.items()
        ]
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration):
        return f"with a {MANIFEST} that cannot be read"
    return f"by its {MANIFEST}: {', '.join(sizes)}"


def _metrics(workdir: Path) -> str:
    """A table of the scores in the workdir, with the file of each."""
    rows = [row for name in SCORES for row in _rows(workdir, name)]
    if not rows:
        return (
            "The workdir has none. Run `snapvideo evaluate --out WORKDIR/scores` or "
            "`snapvideo judge --out WORKDIR/judged` before the export to list some."
        )
    head = ["| metric | value | of | file |", "|---|---|---|---|"]
    return "\n".join(head + rows)


def _rows(workdir: Path, name: str) -> Iterator[str]:
    for path in sorted(workdir.glob(f"*/{name}")):
        numbers, _ = read_metrics(path.parent)
        found = numbers.get(name, {})
        content = json.loads(path.read_bytes()) if found else {}
        origin = [
            f"{key} {content[key]}" for key in ("step", "weights") if key in content
        ]
        for metric, value in found.items():
            yield (
                f"| {metric} | {value:.4g} | {', '.join(origin) or 'see the file'} | "
                f"{path.relative_to(workdir)} |"
            )


def _limits(experiment, about) -> str:
    model, text = experiment.model, about["config"]["text"]
    sizes = [(model.frames, model.height, model.width), *experiment.data.buckets]
    listed = ", ".join(f"{t} frames of {w}x{h} px" for t, h, w in dict.fromkeys(sizes))
    lines = [
        f"- It samples clips of the sizes that it was trained on: {listed}.",
        f"- Captions are cut after {text['tokens']} tokens.",
    ]
    if text["name"] == "hash":
        lines.append(
            "- Its text encoder is a stand-in that distinguishes words without their "
            "meaning: a word that is not in the training captions has no effect."
        )
    else:
        lines.append(
            "- The text encoder is not in this folder; embeddings must come from the "
            f"one of the training ({text['name']}, {text['width']} channels)."
        )
    lines.append(
        "- Neither prompts nor samples are filtered, and biases of the data were not "
        "measured."
    )
    return "\n".join(lines)
