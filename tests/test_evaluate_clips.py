"""Clips of every kind are found, and their selected frames are read."""

import json

import numpy as np
import pytest
from metric_files import smooth_clip
from PIL import Image

from snapvideo_jax.data.container import UnusableClip
from snapvideo_jax.evaluation import clips
from snapvideo_jax.evaluation.clips import Item, Selection
from snapvideo_jax.evaluation.settings import EvaluateOptions
from snapvideo_jax.io.media import write_gif, write_mp4, write_png


def test_every_kind_of_clip_is_found_and_read(tmp_path):
    clip = smooth_clip(3)
    write_mp4(tmp_path / "a.mp4", clip, fps=8)
    write_gif(tmp_path / "b.gif", clip, fps=8)
    write_png(tmp_path / "c.png", clip)
    np.savez(tmp_path / "d.npz", np.stack([clip, clip[::-1]]))
    np.savez(tmp_path / "e.npz", clip)
    write_gif(tmp_path / "sheet.gif", clip, fps=8)  # not a clip
    (tmp_path / "nested" / "f").mkdir(parents=True)
    for number, frame in enumerate(clip):
        Image.fromarray(frame).save(tmp_path / "nested" / "f" / f"{number:03d}.png")
    items = clips.find(tmp_path)
    names = ["a.mp4", "b.gif", "c.png", "d.npz[0]", "d.npz[1]", "e.npz", "nested/f"]
    assert [item.name for item in items] == names
    for item in items:
        frames = clips.read(item, Selection())
        expected = clip[::-1] if item.name == "d.npz[1]" else clip
        assert frames.shape == clip.shape
        apart = np.abs(frames.astype(int) - expected).mean()
        assert apart < (20 if item.name == "a.mp4" else 1e-6), item.name


def test_of_several_formats_the_most_exact_is_read(tmp_path):
    for suffix, write in ((".mp4", write_mp4), (".gif", write_gif)):
        write(tmp_path / f"x{suffix}", smooth_clip(0), fps=8)
    write_png(tmp_path / "x.png", smooth_clip(0))
    assert [item.name for item in clips.find(tmp_path)] == ["x.png"]


def test_a_manifest_gives_order_and_prompts(tmp_path):
    lines = [
        {"index": 1, "video": "b.mp4", "prompt": "b", "class": "B", "seed": 4},
        {"index": 0, "video": "sub/a.mp4", "prompt": "a"},
    ]
    path = tmp_path / "manifest.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    items = clips.find(tmp_path)
    assert [(item.name, item.prompt) for item in items] == [
        ("sub/a.mp4", "a"),
        ("b.mp4", "b"),
    ]
    assert items[0].path == tmp_path / "sub" / "a.mp4"
    for line, message in (
        ("{", "line 1 is not JSON"),
        ('{"video": "a.mp4"}', "index=None"),
        ('{"index": 0}', "have to be strings"),
        ("", "lists no clips"),
        ('{"index": 0, "video": "a"}\n' * 2, "line 2 repeats index=0"),
    ):
        path.write_text(line)
        with pytest.raises(ValueError, match=message):
            clips.find(path)


@pytest.mark.parametrize(
    "selection, first",
    [
        (Selection(4), 0),
        (Selection(4, position="center"), 6),
        (Selection(16, position="center"), 0),
        (Selection(4, fps=4.0), 0),
    ],
)
def test_position_and_fps_select_the_frames(tmp_path, selection, first):
    frames = np.repeat(np.arange(16, dtype=np.uint8)[:, None, None, None] * 16, 3, 3)
    frames = frames.repeat(16, 1).repeat(16, 2)
    write_mp4(tmp_path / "a.mp4", frames, fps=8)
    found = clips.read(Item("a", tmp_path / "a.mp4"), selection)
    step = 1 if selection.fps is None else 2
    places = first + step * np.arange(selection.frames)
    np.testing.assert_allclose(found[:, 8, 8, 0] / 16, places, atol=0.3)


def test_random_frames_depend_on_the_seed_and_the_clip():
    frames = (
        np.zeros((100, 2, 2, 3), np.uint8)
        + np.arange(100, dtype=np.uint8)[:, None, None, None]
    )

    def first(seed, name):
        return clips._pick(frames, Selection(4, position="random", seed=seed), name)

    starts = {int(first(0, str(name))[0, 0, 0, 0]) for name in range(200)}
    assert min(starts) < 8 and max(starts) > 88 and len(starts) > 60
    np.testing.assert_array_equal(first(0, "a"), first(0, "a"))
    assert {int(first(seed, "a")[0, 0, 0, 0]) for seed in range(9)} > {
        int(first(0, "a")[0, 0, 0, 0])
    }


@pytest.mark.parametrize(
    "name, make, reason",
    [
        ("a.mp4", lambda p: write_mp4(p, smooth_clip(0, 5), 8), "has 5 frames, fewer"),
        ("a.png", lambda p: Image.new("RGB", (70, 9)).save(p), "not 16 frames side by"),
        ("a.png", lambda p: Image.new("RGB", (160, 160)).save(p), "not 16 frames side"),
        ("a.npz", lambda p: np.savez(p, np.zeros((20, 4, 4, 3))), "wanted uint8"),
        ("a.npz", lambda p: np.savez(p, a=np.zeros(1), b=np.zeros(1)), "wanted one ar"),
        ("a.npz", lambda p: p.write_bytes(b"PK"), "unreadable array"),
        ("gone.mp4", lambda p: None, "unreadable file"),
    ],
)
def test_unusable_clips_give_the_reason(tmp_path, name, make, reason):
    make(tmp_path / name)
    with pytest.raises(UnusableClip, match=reason):
        clips.read(Item(name, tmp_path / name), Selection())


def test_views_and_sizes():
    frames = np.zeros((2, 18, 32, 3), np.uint8)
    frames[:, :, 7:25] = 255
    square = clips.crop_and_resize(frames, "square", None)
    assert square.shape == (2, 18, 18, 3) and square.min() == 255
    assert clips.crop_and_resize(frames, "native", (36, 64)).shape == (2, 36, 64, 3)


def test_image_frames_are_evenly_spaced(tmp_path):
    places = {
        asked: EvaluateOptions(
            clips=tmp_path,
            out=tmp_path,
            features="random:0",
            metrics=("fid",),
            image_frames=asked,
        ).image_indices()
        for asked in ("all", "middle", "1", "4")
    }
    assert places["all"] == tuple(range(16))
    assert places["middle"] == places["1"] == (8,)
    assert places["4"] == (2, 6, 10, 14)
