"""Which moments, which part and which size: closed forms and plain references."""

import numpy as np
import pytest

from snapvideo_jax.data.container import UnusableClip
from snapvideo_jax.data.transforms import (
    as_video,
    frame_times,
    random_crop,
    resize,
    resize_weights,
)
from snapvideo_jax.data.video import ClipInfo, nearest_frames


def clip_of(frames, fps):
    duration = (frames - 1) / fps if fps else 0.0
    return ClipInfo(frames, fps, duration, 36, 64)


class Lowest(np.random.Generator):
    """A generator that always draws the lower end."""

    def __init__(self):
        super().__init__(np.random.PCG64(0))

    def uniform(self, low, high):
        return low


class Highest(np.random.Generator):
    """A generator that always draws the upper end."""

    def __init__(self):
        super().__init__(np.random.PCG64(0))

    def uniform(self, low, high):
        return high


@pytest.mark.parametrize(
    ("rng", "clip", "frames", "min_fps", "max_fps", "indices", "fps"),
    [
        # The whole clip at its own rate is the only choice.
        (Lowest(), clip_of(8, 24), 8, 1, 0, [0, 1, 2, 3, 4, 5, 6, 7], 24),
        # The lowest rate that still fits, above min_fps.
        (Lowest(), clip_of(15, 24), 8, 1, 0, [0, 2, 4, 6, 8, 10, 12, 14], 12),
        # The lowest rate that is allowed, though a lower one would fit.
        (Lowest(), clip_of(240, 24), 4, 2, 0, [0, 12, 24, 36], 2),
        # The clip's own rate, as late as it goes.
        (Highest(), clip_of(48, 24), 4, 1, 0, [44, 45, 46, 47], 24),
        # A highest rate below the clip's.
        (Highest(), clip_of(48, 24), 4, 1, 8, [38, 41, 44, 47], 8),
        # A clip slower than min_fps keeps its rate.
        (Lowest(), clip_of(9, 0.5), 3, 1, 0, [0, 1, 2], 0.5),
        # One frame of a clip, and a clip of one frame.
        (Highest(), clip_of(9, 8), 1, 1, 0, [8], 8),
        (Highest(), clip_of(1, 0.0), 1, 1, 0, [0], np.inf),
    ],
)
def test_frame_times_as_a_table(rng, clip, frames, min_fps, max_fps, indices, fps):
    times, frame_interval = frame_times(rng, clip, frames, min_fps, max_fps)
    stamps = np.arange(clip.frames) / (clip.fps or 1)
    assert nearest_frames(stamps, times).tolist() == indices
    assert frame_interval == pytest.approx(1 / fps)


def test_target_rates_are_log_uniform_and_frames_stay_inside():
    clip, draws = clip_of(240, 24), []
    for seed in range(2000):
        times, frame_interval = frame_times(np.random.default_rng(seed), clip, 8, 1.0)
        assert len(times) == 8
        np.testing.assert_allclose(np.diff(times), frame_interval)
        assert times[0] >= 0
        assert times[-1] <= clip.duration + 1e-9
        draws.append(-np.log(frame_interval))
    # Of a uniform variable on [0, ln 24]: mean and standard deviation.
    assert np.mean(draws) == pytest.approx(np.log(24) / 2, abs=0.06)
    assert np.std(draws) == pytest.approx(np.log(24) / 12**0.5, abs=0.04)


@pytest.mark.parametrize(
    ("clip", "max_fps", "reason"),
    [
        (clip_of(1, 0.0), 0, "has 1 frame, data.frames=16 needs at least 16"),
        (clip_of(15, 24), 0, "has 15 frames, data.frames=16 needs at least 16"),
        (clip_of(25, 24), 8, r"lasts 1.000 s, data.frames=16 at data.max_fps=8 needs"),
    ],
)
def test_a_clip_that_is_too_short_is_refused_with_the_needed_length(
    clip, max_fps, reason
):
    with pytest.raises(UnusableClip, match=reason):
        frame_times(np.random.default_rng(0), clip, 16, 1.0, max_fps)


def test_an_image_is_a_video_of_equal_frames():
    image = np.random.default_rng(0).integers(256, size=(4, 6, 3), dtype=np.uint8)
    video = as_video(image, 5)
    assert video.shape == (5, 4, 6, 3)
    assert (video == image).all()


@pytest.mark.parametrize(
    ("size", "target", "part"),
    [
        ((64, 64), (16, 16), (64, 64)),
        ((64, 64), (36, 64), (36, 64)),
        ((144, 256), (36, 64), (144, 256)),
        ((288, 512), (16, 16), (288, 288)),
        ((181, 321), (36, 64), (181, 321)),
        ((3, 200), (1, 2), (3, 6)),
    ],
)
def test_a_crop_is_the_largest_part_of_the_aspect(size, target, part):
    video = np.zeros((2, *size, 3), np.uint8)
    assert random_crop(np.random.default_rng(0), video, *target).shape == (2, *part, 3)


def test_crops_reach_both_edges_and_are_the_same_in_all_frames():
    video = np.broadcast_to(np.arange(9, dtype=np.uint8)[:, None], (3, 4, 9, 1))
    lefts = set()
    for seed in range(50):
        part = random_crop(np.random.default_rng(seed), video, 1, 1)
        assert (part == part[0]).all()
        lefts.add(int(part[0, 0, 0, 0]))
    assert lefts == {0, 1, 2, 3, 4, 5}


def test_a_whole_factor_is_the_mean_of_each_area():
    video = np.random.default_rng(0).integers(256, size=(3, 12, 20, 3), dtype=np.uint8)
    areas = video.reshape(3, 3, 4, 5, 4, 3).astype(float).mean((2, 4))
    np.testing.assert_array_equal(resize(video, 3, 5), np.floor(areas + 0.5))


@pytest.mark.parametrize("target", [(16, 16), (36, 64), (7, 5), (100, 90), (181, 321)])
@pytest.mark.parametrize("level", [0, 1, 127, 255])
def test_a_constant_video_stays_constant(target, level):
    video = np.full((2, 181, 99, 3), level, np.uint8)
    small = resize(video, *target)
    assert small.shape == (2, *target, 3)
    assert (small == level).all()


@pytest.mark.parametrize(
    ("size", "new_size", "weights"),
    [
        (4, 2, [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]]),
        (3, 2, [[2 / 3, 1 / 3, 0], [0, 1 / 3, 2 / 3]]),
        (2, 4, [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]]),
        (3, 3, np.eye(3)),
        (1, 3, [[1], [1], [1]]),
    ],
)
def test_resize_weights_as_a_table(size, new_size, weights):
    np.testing.assert_allclose(resize_weights(size, new_size), weights, atol=1e-6)


def test_the_same_size_changes_nothing():
    video = np.random.default_rng(0).integers(256, size=(2, 9, 7, 3), dtype=np.uint8)
    np.testing.assert_array_equal(resize(video, 9, 7), video)


def test_frames_are_resized_independently():
    video = np.random.default_rng(0).integers(256, size=(4, 50, 30, 3), dtype=np.uint8)
    alone = [resize(frame[None], 11, 13)[0] for frame in video]
    np.testing.assert_array_equal(resize(video, 11, 13), np.stack(alone))
