"""The order in which the frames of a long video are sampled (App. C.5)."""

import pytest

from snapvideo_jax.diffusion.windows import check_rates, windows

CASES = [
    (16, (24,), 16),
    (40, (24,), 16),
    (64, (6, 24), 16),
    (64, (6, 24), 8),
    (100, (2, 8, 24), 8),
    (1000, (1, 5, 25), 6),
    (9, (4, 8), 3),
    (5, (24,), 8),
]


@pytest.mark.parametrize("overlap", [1, 2])
@pytest.mark.parametrize("frames, rates, length", CASES)
def test_every_frame_is_new_in_one_window_and_known_after_it(
    frames, rates, length, overlap
):
    done = set()
    for window in windows(frames, rates, length, overlap=overlap):
        assert len(window.frames) == length
        space = round(rates[-1] / window.fps)
        steps = {b - a for a, b in zip(window.frames, window.frames[1:], strict=False)}
        assert steps == {space}
        assert set(window.known) == done & set(window.frames)
        assert not done & set(window.new) and set(window.new) <= set(window.frames)
        done |= set(window.new)
    assert set(range(frames)) <= done


def test_the_lowest_rate_continues_from_its_last_frame():
    lowest = [window for window in windows(181, (6, 24), 16) if window.fps == 6]
    assert [window.known for window in lowest] == [(), (60,), (120,)]
    assert lowest[1].frames == tuple(range(60, 121, 4))


def test_a_window_of_the_lowest_rate_may_overlap_the_previous_one_further():
    plan = windows(64, (8, 24), 8, overlap=3)
    lowest = [window for window in plan if window.fps == 8]
    assert [window.known for window in lowest[:2]] == [(), (15, 18, 21)]
    assert lowest[1].frames == tuple(range(15, 37, 3))
    # The last begins earlier, so as to end with the video.
    assert lowest[-1].frames[-1] == 63 and lowest[-1].known[-3:] == (45, 48, 51)


@pytest.mark.parametrize("overlap", [0, 8])
def test_an_overlap_has_to_leave_new_frames(overlap):
    with pytest.raises(ValueError, match=f"--overlap={overlap} is out of.* 1 to 7"):
        windows(64, (24,), 8, overlap=overlap)


def test_clips_of_higher_rates_end_on_known_frames_and_see_those_before():
    """All but the last, after which nothing is known."""
    *between, last = [each for each in windows(64, (6, 24), 16) if each.fps == 24]
    assert between[0].frames == tuple(range(16)) and between[0].new[-1] == 11
    for window in between[1:]:
        assert window.frames[-1] == window.known[-1]
        first_made = window.new[0]
        before = [number for number in window.frames if number < first_made]
        assert before and set(before) <= set(window.known)
    assert last.new == (61, 62, 63)


@pytest.mark.parametrize("rates, length", [((6, 24), 16), ((6, 24), 8), ((24,), 8)])
def test_four_times_the_frames_take_at_most_four_and_a_half_times_the_clips(
    rates, length
):
    short = len(windows(4 * length, rates, length))
    assert len(windows(16 * length, rates, length)) <= 4.5 * short


def test_given_frames_are_known_wherever_they_come_up():
    plan = windows(33, (6, 24), 9, given=(0, 5, 32))
    assert 0 in plan[0].known and 32 in plan[0].known
    assert all(not {0, 5, 32} & set(window.new) for window in plan)
    assert any(5 in window.known for window in plan)


@pytest.mark.parametrize(
    "rates, part",
    [
        ((24, 6), "6 is 0.25 times 24"),
        ((10, 24), "24 is 2.4 times 10"),
        ((1, 24), "each 2 to 15 times"),
        ((0, 24), "use values above 0"),
        ((), "are not frame rates"),
    ],
)
def test_rates_that_no_clip_can_fill_are_refused(rates, part):
    with pytest.raises(ValueError, match=part):
        check_rates(rates, 16)


def test_single_frames_make_no_video():
    with pytest.raises(ValueError, match="use one with data.frames=2 or more"):
        windows(4, (24,), 1)
