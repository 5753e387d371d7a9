"""Writes docs/paper.md: every number of the paper, and the result here.

    python benchmarks/paper.py

The tables below have all of it; a test fails if the page differs from what this writes.
Results at small scale are read from docs/small_world.json, which
benchmarks/small_world.py writes.
"""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "paper.md"
SMALL_WORLD = ROOT / "docs" / "small_world.json"

REPRODUCED, SMALL, NEEDS = "reproduced", "at small scale", "needs"
INTERNAL = "the paper's internal data"
NETS = {
    "FID": "Inception",
    "FVD": "I3D",
    "CLIPSIM": "CLIP",
    "CLIP-FID": "CLIP",
    "IS": "C3D",
}
"""The weights that a metric needs."""


@dataclasses.dataclass(frozen=True)
class Number:
    """One number of the paper.

    Attributes:
      table: or figure.
      row, quantity: its row and column.
      value: as printed.
      config: its config in configs/.
      command: name of one of `COMMANDS`.
      status: `REPRODUCED`, `SMALL` or `NEEDS`.
      note: what is needed, or where it was reproduced.
    """

    table: str
    row: str
    quantity: str
    value: str
    config: str
    command: str
    status: str
    note: str


COMMANDS = {
    "train": "snapvideo train --config CONFIG --workdir RUN --config.data.source=tfds "
    "--config.data.root=DATA --config.data.tfds_videos=NAME "
    "--config.data.tfds_images=NAME",
    "internal": "snapvideo protocol generate internal --workdir RUN --out SAMPLES "
    "--captions CAPTIONS\n"
    "snapvideo protocol score --samples SAMPLES --against TEST_CLIPS --weights nets "
    "--out SCORES",
    "ucf101": "snapvideo protocol generate ucf101 --workdir RUN --out SAMPLES "
    "--classes testlist01.txt\n"
    "snapvideo sample --cascade UPSAMPLER --small_clips SAMPLES/samples --format png "
    "--out LARGE/samples\n"
    "snapvideo protocol score --samples SAMPLES --clips LARGE --against UCF-101 "
    "--weights nets --out SCORES",
    "msrvtt": "snapvideo protocol generate msrvtt --workdir RUN --out SAMPLES "
    "--captions test_videodatainfo.json\n"
    "snapvideo sample --cascade UPSAMPLER --small_clips SAMPLES/samples --format png "
    "--out LARGE/samples\n"
    "snapvideo protocol score --samples SAMPLES --clips LARGE --against TestVideo "
    "--weights nets --out SCORES",
    "speed": "snapvideo bench models",
    "study": "snapvideo study build --method ours=OURS --method gen2=GEN2 "
    "--method pika=PIKA --method floor33=FLOOR33 --prompts FILE --out study\n"
    "snapvideo study tally --key study.key.json votes/*.json",
    "cfg": "snapvideo protocol generate cfg_sweep --workdir RUN --out SAMPLES "
    "--captions CAPTIONS\n"
    "snapvideo protocol score --samples SAMPLES --against TEST_CLIPS --weights nets "
    "--out SCORES",
    "steps": "snapvideo protocol generate step_sweep --workdir RUN --out SAMPLES "
    "--captions CAPTIONS\n"
    "snapvideo protocol score --samples SAMPLES --against TEST_CLIPS --weights nets "
    "--out SCORES",
    "small": "python benchmarks/small_world.py --out small_world",
}
"""Commands of the rows. CONFIG is the row's; run ``train`` before all but ``speed``,
``study`` and ``small``. LARGE are the SAMPLES enlarged by UPSAMPLER, a run of the
upsampler."""

TAB2 = {
    "U-Net 85M": ("unet.py:size=85m", "8.21 45.94 0.2319 133.2 49.6"),
    "U-Net 284M": ("unet.py:size=284m", "4.90 23.76 0.2391 230.3 105.1"),
    "FIT 500M": ("fit.py:size=500m", "3.07 27.79 0.2459 69.5 23.4"),
    "FIT 3.9B": ("fit.py:size=3p9b", "2.51 12.31 0.2579 526.0 130.4"),
}
TAB3 = {
    "EDM": ("fit.py:ablation=edm", "6.58 39.95 0.2370"),
    "(ii) sigma_data 0.5": ("fit.py:ablation=ii", "4.03 31.00 0.2449"),
    "(iii) sigma_in 2": ("fit.py:ablation=iii", "4.45 34.89 0.2428"),
    "(iv) images not videos": ("fit.py:ablation=iv", "3.50 24.88 0.2469"),
    "ours": ("fit.py:size=500m", "3.07 27.79 0.2459"),
}
TAB4 = {"288x288": "260.1 39.0 38.89", "512x288": "200.2 28.1 38.89"}
TAB5 = {"288x288": "8.48 110.4 0.2793", "512x288": "9.35 104.0 0.2793"}
TAB6 = {
    "Gen-2": "44.3 81.0 96.0 78.7",
    "Pika": "61.5 80.3 89.2 70.5",
    "Floor33": "76.3 80.9 88.0 79.1",
}
QUESTIONS = ("photorealism", "text alignment", "motion quantity", "motion quality")


def numbers() -> Iterator[Number]:
    """All numbers, in the paper's order."""
    metrics, times = ("FID", "FVD", "CLIPSIM"), ("training ms", "inference ms")
    small = small_rows()
    for row, (config, text) in TAB2.items():
        for quantity, value in zip((*metrics, *times), text.split(), strict=True):
            if quantity in metrics:
                outcome = _of_internal("2", row, quantity, small)
                yield Number("Tab. 2", row, quantity, value, config, *outcome)
            else:
                note = "an A100; ratios are in docs/measured.md"
                yield Number(
                    *("Tab. 2", row, quantity, value, config, "speed", NEEDS, note)
                )
    for row, (config, text) in TAB3.items():
        for quantity, value in zip(metrics, text.split(), strict=True):
            outcome = _of_internal("3", row, quantity, small)
            yield Number("Tab. 3", row, quantity, value, config, *outcome)
    stages = "fit.py:size=3p9b, then fit_upsampler.py"
    for table, rows, quantities, command, data in (
        ("Tab. 4", TAB4, ("FVD", "FID", "IS"), "ucf101", "UCF-101"),
        ("Tab. 5", TAB5, ("CLIP-FID", "FVD", "CLIPSIM"), "msrvtt", "MSR-VTT"),
    ):
        for row, text in rows.items():
            for quantity, value in zip(quantities, text.split(), strict=True):
                note = f"a model trained on {INTERNAL}, {data}, {NETS[quantity]}"
                yield Number(table, row, quantity, value, stages, command, NEEDS, note)
    for row, text in TAB6.items():
        for quantity, value in zip(QUESTIONS, text.split(), strict=True):
            note = f"a model trained on {INTERNAL}, clips of {row}, raters"
            yield Number(
                "Tab. 6", row, quantity, f"{value} %", stages, "study", NEEDS, note
            )
    config, note = "fit.py:size=3p9b", f"{INTERNAL}, I3D"
    yield Number(
        *("Fig. 5", "15 weights", "FVD and CLIPSIM", "a curve", config, "cfg", NEEDS),
        f"{note}, CLIP",
    )
    yield Number(
        *("Fig. 6", "7 numbers of steps", "FVD", "curves", config, "steps", NEEDS), note
    )


def small_rows() -> dict[tuple[str, str], dict]:
    """Results of small_world.py by table and row; empty if it did not run."""
    if not SMALL_WORLD.is_file():
        return {}
    tables = json.loads(SMALL_WORLD.read_text())["tables"]
    return {
        (table, row): one
        for table, found in tables.items()
        for row, one in found["rows"].items()
    }


def _of_internal(table: str, row: str, quantity: str, small) -> tuple[str, str, str]:
    """Command, status and note of a number on the internal data."""
    found = small.get((table, "FIT 500M" if row == "ours" else row))
    needs = f"{INTERNAL}, {NETS[quantity]}"
    if not found or quantity == "FID":
        return "internal", NEEDS, needs
    kind, form = {"FVD": ("frechet", "{:.3g}"), "CLIPSIM": ("obeyed", "{:.1%}")}[
        quantity
    ]
    mean, spread, _ = found[kind]
    name = "Frechet distance" if kind == "frechet" else "prompts obeyed"
    measured = f"{name} {form.format(mean)} +- {form.format(spread)}"
    note = f"{measured}; the paper's value needs {needs}"
    return "small", SMALL, note


def page() -> str:
    """The whole page."""
    found = list(numbers())
    counts = {
        status: sum(one.status == status for one in found)
        for status in (REPRODUCED, SMALL, NEEDS)
    }
    where = "[small_world.md](small_world.md) has the tables."
    if not counts[SMALL]:
        where = "`benchmarks/small_world.py` computes them; it was not run yet."
    lines = [
        "# The paper's numbers",
        "",
        "Generated by `python benchmarks/paper.py`; do not edit. Each number of",
        "Tab. 2 to 6, Fig. 5 and Fig. 6 of arXiv 2402.14797, with its config, the",
        "command that computes it, and its status:",
        "",
        f"- **{REPRODUCED}**: {counts[REPRODUCED]}",
        f"- **{SMALL}**: {counts[SMALL]}. On the generated shapes, with smaller",
        "  networks: only their order is comparable with the paper, not the values.",
        f"  {where}",
        f"- **{NEEDS}**: {counts[NEEDS]}. The data, weights, devices or raters that",
        "  are named were not available; the command runs with them.",
        "",
        "## Commands",
        "",
        "Run `train` before `internal`, `ucf101`, `msrvtt`, `cfg` and `steps`; CONFIG",
        "is that of the row. LARGE are the SAMPLES enlarged by UPSAMPLER, a run of the",
        "upsampler. The metric networks are in [evaluation.md](evaluation.md).",
        "",
    ]
    for name, command in COMMANDS.items():
        lines += [f"**{name}**", "", "```bash", *_wrapped(command), "```", ""]
    for table in dict.fromkeys(one.table for one in found):
        lines += [f"## {table}", ""]
        lines.append("| row | number | paper | config | command | status |")
        lines.append("|---|---|---:|---|---|---|")
        for one in found:
            if one.table == table:
                lines.append(
                    f"| {one.row} | {one.quantity} | {one.value} | `{one.config}` | "
                    f"{one.command} | {one.status}: {one.note} |"
                )
        lines.append("")
    return "\n".join(lines[:-1]) + "\n"


def _wrapped(command: str) -> Iterator[str]:
    """A command in lines of limited width."""
    for line in command.split("\n"):
        parts, out = line.split(" --"), ""
        for number, part in enumerate(parts):
            word = f"--{part}" if number else part
            if out and len(out) + len(word) > 82:
                yield f"{out} \\"
                out = f"  {word}"
            else:
                out = f"{out} {word}" if out else word
        yield out


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
