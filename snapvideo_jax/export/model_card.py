"""The README of a bundle, filled from the run: what it is, its data, its limits."""

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
      workdir: of the run; what is told is what lies there.
      about: step, weights and dtype that are exported, and the config as JSON.
      parameters: how many.
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
        "snapvideo verify BUNDLE --workdir RUN      # is it what the run had?",
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
    """What the run was trained on, as far as files tell."""
    parts = dict(data.get("mixture") or {}) or {"": data}
    lines = []
    for name, part in parts.items():
        root = Path(part.get("root") or "")
        called = f"{name}: " if name else ""
        lines.append(f"- {called}`{root.name or part.get('source')}`, {_held(root)}")
    lines.append(
        "\nWhose data they are and what they may be used for is not known to this "
        "card; whoever publishes the model has to add it."
    )
    return "\n".join(lines)


def _held(root: Path) -> str:
    """What the manifest of `snapvideo prepare` says, in or beside a folder."""
    found = [path / MANIFEST for path in (root, root.parent)]
    path = next((path for path in found if str(root) != "." and path.is_file()), None)
    if path is None:
        return "without a manifest"
    try:
        stages = json.loads(path.read_bytes())["stages"]
        kinds = stages.get(root.name) or next(iter(stages.values()))
        told = [
            f"{kind['records']:,} {name} ({kind['hours']:,.4g} hours)"
            for name, kind in kinds.items()
        ]
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration):
        return f"with a {MANIFEST} that cannot be read"
    return f"by its {MANIFEST}: {', '.join(told)}"


def _metrics(workdir: Path) -> str:
    """Scores that lie in the workdir, each with the file that it is from."""
    rows = [row for name in SCORES for row in _rows(workdir, name)]
    if not rows:
        return (
            "None lie in the workdir. `snapvideo evaluate --out WORKDIR/scores` or "
            "`snapvideo judge --out WORKDIR/judged`, before the export, puts them here."
        )
    head = ["| metric | value | of | file |", "|---|---|---|---|"]
    return "\n".join(head + rows)


def _rows(workdir: Path, name: str) -> Iterator[str]:
    for path in sorted(workdir.glob(f"*/{name}")):
        numbers, _ = read_metrics(path.parent)
        found = numbers.get(name, {})
        content = json.loads(path.read_bytes()) if found else {}
        told = [
            f"{key} {content[key]}" for key in ("step", "weights") if key in content
        ]
        for metric, value in found.items():
            yield (
                f"| {metric} | {value:.4g} | {', '.join(told) or 'see the file'} | "
                f"{path.relative_to(workdir)} |"
            )


def _limits(experiment, about) -> str:
    model, text = experiment.model, about["config"]["text"]
    sizes = [(model.frames, model.height, model.width), *experiment.data.buckets]
    told = ", ".join(f"{t} frames of {w}x{h} px" for t, h, w in dict.fromkeys(sizes))
    lines = [
        f"- It makes clips of the sizes that it was trained on: {told}.",
        f"- Captions are cut after {text['tokens']} tokens.",
    ]
    if text["name"] == "hash":
        lines.append(
            "- Its text encoder is a stand-in that knows words and no meaning: a word "
            "that no caption of the training data had means nothing to it."
        )
    else:
        lines.append(
            "- The text encoder is not in this folder; embeddings have to be of the "
            f"one it was trained with ({text['name']}, {text['width']} channels)."
        )
    lines.append(
        "- Nothing filters what is asked for or what comes out, and biases of the data "
        "were not measured."
    )
    return "\n".join(lines)
