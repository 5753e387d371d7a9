"""What the tests of mixtures share: two small folders, and settings that mix them."""

import json

import numpy as np

from snapvideo_jax.data import DataConfig, Part
from snapvideo_jax.data.records import encode_mp4, encode_png
from snapvideo_jax.text import HashTextEncoder

ENCODER = HashTextEncoder(tokens=4, width=8)
WIDE, TALL = (4, 14, 16), (4, 18, 8)
"""Sizes of batches, in frames, height and width."""


def media(name, number, frames=8, height=18, width=24, fps=8):
    """A clip or picture that no other is equal to."""
    rng = np.random.default_rng([number, height])
    pixels = rng.integers(256, size=(frames, height, width, 3), dtype=np.uint8)
    return encode_png(pixels[0]) if ".png" in name else encode_mp4(pixels, fps=fps)


def write_folder(root, files):
    """A folder of ``files``: name, fields of its line, content."""
    root.mkdir()
    lines = []
    for number, (name, fields, held) in enumerate(files):
        (root / name).write_bytes(media(name, number, **held))
        kind = "image" if name.endswith("png") else "video"
        lines.append({"file": name, "type": kind, "caption": name} | fields)
    (root / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return root


def write_roots(root):
    """Folders ``film`` (6 wide clips of 24 fps, 2 tall ones, 2 pictures of each shape)
    and ``web`` (5 wide clips of 8 fps; 4 pictures, one tall), with scores from 0 up."""
    tall = dict(height=24, width=12)
    film = [(f"{n}.mp4", {"score": n}, dict(fps=24)) for n in range(6)]
    film += [(f"tall{n}.mp4", {"score": 9}, tall) for n in range(2)]
    film += [(f"{n}.png", {}, {}) for n in range(2)]
    film += [(f"tall{n}.png", {}, tall) for n in range(2)]
    web = [(f"w{n}.mp4", {"score": n}, {}) for n in range(5)]
    web += [(f"w{n}.png", {}, {}) for n in range(3)] + [("wt.png", {}, tall)]
    return {
        "film": write_folder(root / "film", film),
        "web": write_folder(root / "web", web),
    }


def parts(roots, **more):
    """film and web with weights 3 and 2 for videos, 1 and 1 for images."""
    film = dict(video_weight=3.0, image_weight=1.0, max_fps=24.0, min_fps=12.0)
    web = dict(video_weight=2.0, image_weight=1.0, max_fps=4.0, min_fps=4.0)
    return {
        name: Part(source="folder", root=str(roots[name]), **fields | more)
        for name, fields in (("film", film), ("web", web))
    }


def config_of(roots, **changes):
    fields = dict(source="mixture", mixture=parts(roots), videos_per_batch=6)
    fields |= dict(images_per_batch=2, num_threads=0)
    fields |= dict(zip(("frames", "height", "width"), WIDE, strict=True))
    return DataConfig(**fields | changes)


def buckets_of(roots, **changes):
    """Two sizes, the wide one twice as often."""
    return config_of(roots, buckets=(TALL,), bucket_weights=(2.0, 1.0), **changes)
