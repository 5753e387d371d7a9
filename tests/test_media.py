"""Files hold the frames they were given, and sheets show every clip."""

import av
import numpy as np
import pytest
from einops import rearrange
from PIL import Image

from snapvideo_jax.io import media


@pytest.fixture
def clip():
    """A bright square that moves right over a dark ground, [8 24 32 3]."""
    frames = np.full((8, 24, 32, 3), (20, 40, 60), np.uint8)
    for k, frame in enumerate(frames):
        frame[8:16, 2 * k : 2 * k + 8] = (230, 120, 10)
    return frames


def read_gif(path):
    with Image.open(path) as image:
        frames = []
        for k in range(image.n_frames):
            image.seek(k)
            frames.append((np.asarray(image.convert("RGB")), image.info["duration"]))
        return frames, image.info.get("loop")


def read_mp4(path):
    with av.open(str(path)) as container:
        rate = container.streams.video[0].average_rate
        return [f.to_ndarray(format="rgb24") for f in container.decode(video=0)], rate


def test_an_mp4_holds_the_frames(tmp_path, clip):
    media.write_mp4(tmp_path / "clip.mp4", clip, 12)
    frames, rate = read_mp4(tmp_path / "clip.mp4")
    assert rate == 12 and len(frames) == 8
    assert np.abs(np.stack(frames).astype(int) - clip).mean() < 6


def test_an_mp4_pads_odd_sizes_with_their_edge(tmp_path, clip):
    media.write_mp4(tmp_path / "clip.mp4", clip[:, :23, :31], 12)
    frames, _ = read_mp4(tmp_path / "clip.mp4")
    assert frames[0].shape == (24, 32, 3)
    last, before = frames[0][-1].astype(int), frames[0][-2].astype(int)
    assert np.abs(last - before).mean() < 6


def test_an_mp4_keeps_a_fractional_rate(tmp_path, clip):
    media.write_mp4(tmp_path / "clip.mp4", clip, 30000 / 1001)
    assert float(read_mp4(tmp_path / "clip.mp4")[1]) == pytest.approx(29.97, abs=1e-3)


def test_a_gif_of_few_colours_is_exact_and_loops(tmp_path, clip):
    media.write_gif(tmp_path / "clip.gif", clip, 10)
    frames, loop = read_gif(tmp_path / "clip.gif")
    np.testing.assert_array_equal(np.stack([f for f, _ in frames]), clip)
    assert [duration for _, duration in frames] == [100] * 8
    assert loop == 0


def test_a_gif_of_many_colours_is_close_and_does_not_flicker(tmp_path, clip):
    ramp = np.linspace(0, 255, 24 * 32).reshape(24, 32, 1)
    frames = np.uint8(clip * 0.5 + ramp * [0.5, 0.3, 0.1])
    media.write_gif(tmp_path / "clip.gif", frames, 10)
    read = np.stack([f for f, _ in read_gif(tmp_path / "clip.gif")[0]]).astype(int)
    assert np.abs(read - frames).mean() < 4
    still = (frames == frames[:1]).all(axis=(0, -1))
    np.testing.assert_array_equal(
        read[:, still], np.broadcast_to(read[0, still], read[:, still].shape)
    )


def test_a_gif_keeps_the_length_of_the_clip(tmp_path, clip):
    media.write_gif(tmp_path / "clip.gif", clip, 24)
    durations = [duration for _, duration in read_gif(tmp_path / "clip.gif")[0]]
    assert set(durations) == {40, 50}
    assert sum(durations) == pytest.approx(8 / 24 * 1000, abs=5)


def test_a_png_shows_the_frames_side_by_side(tmp_path, clip):
    media.write_png(tmp_path / "clip.png", clip)
    with Image.open(tmp_path / "clip.png") as image:
        strip = np.asarray(image)
    np.testing.assert_array_equal(rearrange(strip, "h (t w) c -> t h w c", t=8), clip)


def test_a_clip_is_written_in_every_requested_format(tmp_path, clip):
    paths = media.write_clip(tmp_path / "new" / "a.b", clip, 8, media.FORMATS)
    assert [path.name for path in paths] == ["a.b.mp4", "a.b.gif", "a.b.png"]
    assert all(path.stat().st_size > 0 for path in paths)
    assert len(list((tmp_path / "new").iterdir())) == 3  # No passing file is left.


def test_an_unknown_format_is_refused_before_anything_is_written(tmp_path, clip):
    with pytest.raises(ValueError, match="--format=.* holds 'webm'; .*mp4, gif, png"):
        media.write_clip(tmp_path / "clip", clip, 8, ["gif", "webm"])
    with pytest.raises(ValueError, match="holds 'g'; wanted a list"):
        media.write_clip(tmp_path / "clip", clip, 8, "gif")
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file(tmp_path, clip, monkeypatch):
    path = tmp_path / "clip.png"
    media.write_png(path, clip)
    before = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(media.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        media.write_png(path, clip[:2])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_an_invalid_clip_is_refused(tmp_path, clip):
    with pytest.raises(ValueError, match=r"shape \(0, 24, 32, 3\); wanted uint8"):
        media.write_mp4(tmp_path / "clip.mp4", clip[:0], 8)
    with pytest.raises(ValueError, match="fps=0 is not above 0"):
        media.write_gif(tmp_path / "clip.gif", clip, 0)


def test_a_sheet_shows_each_clip_at_its_place(clip):
    clips = np.stack([clip, 255 - clip, clip // 2])
    sheet = media.contact_sheet(clips, columns=2, scale=2, margin=3)
    assert sheet.shape == (8, 3 + 2 * (48 + 3), 3 + 2 * (64 + 3), 3)
    np.testing.assert_array_equal(sheet[:, 3:51:2, 3:67:2], clips[0])
    np.testing.assert_array_equal(sheet[:, 4:51:2, 4:67:2], clips[0])
    np.testing.assert_array_equal(sheet[:, 3:51:2, 70:134:2], clips[1])
    np.testing.assert_array_equal(sheet[:, 54:102:2, 3:67:2], clips[2])
    assert len(np.unique(sheet[:, 54:102, 70:134])) == 1  # The empty place.


def test_captions_are_drawn_below_their_clip_and_stay_inside_its_width(clip):
    clips = np.stack([clip, clip])
    bare = media.contact_sheet(clips, 2, ["", ""], scale=2, margin=6)
    sheet = media.contact_sheet(
        clips, 2, ["a very long caption of many words Wwwwwwwwwwwwwwwww", ""], scale=2
    )
    below = sheet[0, 6 + 48 :].min(axis=-1) < 200
    assert sheet.shape[1] > bare.shape[1]
    assert below[:, 6 : 6 + 64].any()
    assert not below[:, 6 + 64 + 6 :].any()
    np.testing.assert_array_equal(sheet[:, :54], bare[:, :54])


def test_captions_of_any_script_and_length_are_drawn(clip):
    labels = ["ein Würfel", "円が動く " * 50, "🐈 \ud800", "word " * 500]
    sheet = media.contact_sheet(np.stack([clip] * 4), 4, labels, font_size=10)
    assert sheet.shape[1] < 24 + 12 + 7 * 13


def test_a_sheet_refuses_impossible_sizes(clip):
    clips = clip[None]
    with pytest.raises(ValueError, match="columns=0 is below 1"):
        media.contact_sheet(clips, 0)
    with pytest.raises(ValueError, match="scale=0 is below 1"):
        media.contact_sheet(clips, 1, scale=0)
    with pytest.raises(ValueError, match="2 captions for 1 clips"):
        media.contact_sheet(clips, 1, ["a", "b"])
    with pytest.raises(ValueError, match="0 clips"):
        media.contact_sheet(clips[:0], 1)
