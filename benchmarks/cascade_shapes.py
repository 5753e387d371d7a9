"""A cascade on the generated shapes: 16x16 px by the demo, 64x64 by a small upsampler.

    pip install -e ".[plot]"
    ./launch/demo.sh
    snapvideo train --config configs/demo_upsampler.py --workdir runs/demo-upsampler \\
      --config.run.init_from=runs/demo
    python benchmarks/cascade_shapes.py --workdir runs/demo \\
      --cascade runs/demo-upsampler --out OUT

Held-out scenes are rendered at 64x64 px, downsampled and upsampled (`snapvideo
search_noise`). Held-out prompts are sampled by both stages (`snapvideo sample
--cascade`) and judged at 64x64. Requirements: PSNR at least 2 dB above bilinear
upsampling, and at least 80% of the prompts obeyed.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from snapvideo_jax import config as configs
from snapvideo_jax.data.records import encode_mp4
from snapvideo_jax.data.shapes.dataset import (
    FPS,
    caption,
    held_out_prompts,
    render,
    sample_scene,
)
from snapvideo_jax.data.shapes.judge import judge
from snapvideo_jax.evaluation.shapes import FIELDS
from snapvideo_jax.sampling.outputs import read_clip

DECIBELS, SHARE = 2.0, 0.8


def held_out_clips(folder: Path, count: int, size: int) -> Path:
    """Writes held-out scenes to a folder for `--clips`."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(count):
        scene = sample_scene(1, number, "test")
        name = f"{number:05d}.mp4"
        (folder / name).write_bytes(encode_mp4(render(scene, size=size), FPS))
        lines.append({"file": name, "type": "video", "caption": caption(scene)})
    text = "\n".join(map(json.dumps, lines))
    (folder / "captions.jsonl").write_text(text + "\n")
    return folder


def snapvideo(*arguments) -> None:
    """Runs a verb; raises CalledProcessError where it fails."""
    command = [sys.executable, "-m", "snapvideo_jax", *map(str, arguments)]
    subprocess.run(command, check=True)


def obeyed(out: Path, shape, asked) -> dict[str, float]:
    """Shares of clips that follow the prompt, by field and in all fields."""
    rows = []
    for number, (_, wanted) in enumerate(asked):
        seen = judge(read_clip(out / f"{number:05d}", shape))
        pairs = zip(FIELDS, wanted, strict=True)
        rows.append([getattr(seen, field) == each for field, each in pairs])
    rows = np.array(rows)
    return dict(zip(FIELDS, rows.mean(axis=0), strict=True)) | {
        "all": rows.all(axis=1).mean()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workdir", required=True, metavar="DIR", help="of the demo")
    parser.add_argument("--cascade", required=True, metavar="DIR", help="the upsampler")
    parser.add_argument("--out", required=True, metavar="DIR")
    parser.add_argument("--count", type=int, default=64, help="clips, prompts: 64")
    parser.add_argument("--grid", default="0,0.02,0.05,0.1", help="amounts of noise")
    parser.add_argument("--batch", type=int, default=16, help="clips at once: 16")
    arguments = parser.parse_args()
    out = Path(arguments.out)
    experiment = configs.build(configs.of_workdir(Path(arguments.cascade)))
    model = experiment.model
    clips = held_out_clips(out / "held_out", arguments.count, model.height)
    common = ("--cascade", arguments.cascade, "--batch", arguments.batch)
    snapvideo(
        *("search_noise", "--clips", clips, "--out", out / "search"),
        *("--count", arguments.count, "--grid", arguments.grid, *common),
    )
    found = json.loads((out / "search" / "search.json").read_text())
    asked = held_out_prompts(arguments.count)
    (out / "prompts.txt").write_text("\n".join(prompt for prompt, _ in asked))
    snapvideo(
        *("sample", "--workdir", arguments.workdir, "--out", out / "sampled"),
        *("--prompts", out / "prompts.txt", "--format", "png,mp4"),
        *("--small_noise", found["best"], *common),
    )
    shape = (model.frames, model.height, model.width, model.out_channels)
    shares = obeyed(out / "sampled", shape, asked)
    print("| small_noise | PSNR, dB | standard error | over bilinear |")
    print("|---|---|---|---|")
    for noise, level in found["levels"].items():
        over = level["mean"] - found["bilinear"]
        error = level["standard_error"]
        print(f"| {noise} | {level['mean']:.2f} | {error:.2f} | {over:+.2f} |")
    print(f"| bilinear | {found['bilinear']:.2f} | | |")
    print("| obeyed at the high resolution | share |\n|---|---|")
    for name, share in shares.items():
        print(f"| {name} | {share:.1%} |")
    over = found["levels"][f"{found['best']:g}"]["mean"] - found["bilinear"]
    print(
        f"{'HOLDS' if over >= DECIBELS else 'FAILS'}: {over:+.2f} dB over bilinear at "
        f"--small_noise {found['best']:g}; required {DECIBELS:g} or more."
    )
    print(
        f"{'HOLDS' if shares['all'] >= SHARE else 'FAILS'}: {shares['all']:.1%} of "
        f"{len(asked)} prompts obeyed; required {SHARE:.0%} or more."
    )


if __name__ == "__main__":
    main()
