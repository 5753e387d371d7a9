"""What several test modules share: the tiny run, its data, a way to compare trees."""

import json
import pathlib

import flax.linen as nn
import jax
import numpy as np
import pytest
from PIL import Image

from snapvideo_jax import config as configs
from snapvideo_jax.data.records import encode_mp4, encode_png
from snapvideo_jax.planning import compiler_flags, golden_plans
from snapvideo_jax.state import abstract_state
from snapvideo_jax.training.checkpoints.checkpoints import Checkpoints

TINY_CONFIG = str(pathlib.Path(__file__).parent / "tiny_config.py")


def tiny_config(root, *overrides, model="fit"):
    """The tiny config on the records in ``root``, with overrides as for the CLI."""
    overrides = [f"--config.{override}" for override in overrides]
    path = f"{TINY_CONFIG}:model={model}"
    return configs.load(path, [f"--config.data.root={root}", *overrides])


def clips_folder(root, bad):
    """8 clips, 4 pictures, and what ``bad`` maps from file name to bytes."""
    root.mkdir()
    rng = np.random.default_rng(0)
    for number in range(8):
        frames = rng.integers(256, size=(12, 16, 16, 3), dtype=np.uint8)
        (root / f"{number}.mp4").write_bytes(encode_mp4(frames, fps=12))
    for number in range(4):
        frame = rng.integers(256, size=(16, 16, 3), dtype=np.uint8)
        (root / f"{number}.png").write_bytes(encode_png(frame))
    for name, data in bad.items():
        (root / name).write_bytes(data)
    lines = [
        {
            "file": path.name,
            "type": "video" if path.suffix == ".mp4" else "image",
            "caption": path.stem,
        }
        for path in sorted(root.iterdir())
    ]
    (root / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return root


def read_metrics(workdir):
    """The lines of a run's ``metrics.jsonl``."""
    text = (pathlib.Path(workdir) / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def kept_steps(workdir):
    """Steps of the checkpoints in a workdir, in order."""
    folders = (pathlib.Path(workdir) / "checkpoints").iterdir()
    return sorted(int(folder.name) for folder in folders if folder.name.isdigit())


def restore(workdir):
    """The newest state of a workdir, as NumPy arrays by name."""
    text = (pathlib.Path(workdir) / "config.json").read_text()
    experiment = configs.build(configs.from_json(text))
    shapes = nn.unbox(abstract_state(experiment))
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        shapes,
    )
    checkpoints = Checkpoints(pathlib.Path(workdir))
    state = checkpoints.restore(like)
    checkpoints.close()
    return by_name(state)


def by_name(tree):
    """The leaves of a tree by their path, as NumPy arrays."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def golden_plan(name):
    """What is kept of a golden plan; the test is skipped if not by this compiler."""
    found = golden_plans.GOLDEN_PLANS[name].read()
    if found is None:
        pytest.skip(f"{name} was not generated yet")
    compiler_flags.set_flags()
    if found["made_with"] != golden_plans.versions():
        pytest.skip(
            f"{name} was made with {found['made_with']}, not with "
            f"{golden_plans.versions()}"
        )
    return found["plan"]


def assert_one_line(result, *parts):
    """Exit code 2 and one line on stderr that holds all ``parts``."""
    code, out, err = result
    assert (code, out) == (2, ""), err
    assert err.startswith("snapvideo: error: ") and err.count("\n") == 1, err
    for part in parts:
        assert part in err


def strip(out, number):
    """The frames of a clip that `snapvideo sample` wrote as PNG, side by side."""
    with Image.open(out / f"{number:05d}.png") as picture:
        return np.asarray(picture).astype(int)
