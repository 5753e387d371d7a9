"""The order in which the frames of a long video are sampled (App. C.5).

A video is sampled at rising frame rates, in windows of the network's length. At the
lowest rate each window continues from the last frame of the previous one, or from more
of its frames, which show how fast things move [C]. At every higher rate windows fill in
the frames between those of the rate below, conditioned on all frames known so far: a
window ends on a known frame, so that it never extrapolates, and begins as early as its
length allows, overlapping the previous window [C]. Frames after the last one of the
rate below are extrapolated.

Frames are numbered as in the finished video, at its highest rate.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence


@dataclasses.dataclass(frozen=True)
class Window:
    """A clip that is sampled at once.

    Attributes:
      fps: its frame rate.
      frames: numbers of its frames.
      known: those of them that are known before.
      new: those of the others that become part of the video.
    """

    fps: float
    frames: tuple[int, ...]
    known: tuple[int, ...]
    new: tuple[int, ...]


def check_rates(rates: Sequence[float], length: int) -> None:
    """Checks the frame rates of a hierarchy.

    Args:
      rates: rising, in frames per second.
      length: frames of a clip.

    Raises:
      ValueError: a rate is not a multiple of the one before it, or such a large one
        that no clip would reach from one known frame to the next.
    """
    if not rates or min(rates) <= 0:
        raise ValueError(
            f"--rates={_text(rates)} are not frame rates; use values above 0."
        )
    for low, high in itertools.pairwise(rates):
        times = high / low
        if abs(times - round(times)) > 1e-6 or not 2 <= round(times) <= length - 1:
            raise ValueError(
                f"--rates={_text(rates)}: {high:g} is {times:g} times {low:g}; use "
                f"rising rates, each 2 to {length - 1} times the one before, as a clip "
                f"has {length} frames."
            )


def windows(
    frames: int,
    rates: Sequence[float],
    length: int,
    given: Iterable[int] = (),
    overlap: int = 1,
) -> list[Window]:
    """The windows of a video, in the order in which they are sampled.

    Args:
      frames: of the video; where the last window of a rate reaches beyond, more are
        sampled.
      rates: as for `check_rates`.
      length: frames of a clip.
      given: numbers of frames that are known from the start.
      overlap: frames of the previous window from which a window continues, at the
        lowest rate.

    Raises:
      ValueError: clips are single frames, which cannot continue from one another, or
        the overlap leaves no new frame.
    """
    if length < 2:
        raise ValueError(
            "This network samples single frames, and a video continues from known "
            "frames; use one with data.frames=2 or more."
        )
    if not 1 <= overlap < length:
        raise ValueError(
            f"--overlap={overlap} is out of range; use 1 to {length - 1}, as a clip "
            f"has {length} frames."
        )
    done, result = set(given), []
    spaces = [round(rates[-1] / rate) for rate in rates]
    for level, (fps, space) in enumerate(zip(rates, spaces, strict=True)):
        count = max(-(-frames // space), length)
        if level == 0:
            spans = _consecutive(count, length, overlap)
        else:
            times = spaces[level - 1] // space
            below = max(-(-frames // spaces[level - 1]), length)
            spans = _in_between(count, length, times, (below - 1) * times)
        for first, last in spans:
            numbers = tuple(space * (first + k) for k in range(length))
            known = tuple(number for number in numbers if number in done)
            new = tuple(
                number
                for number in numbers
                if number <= space * last and number not in done
            )
            if new:
                result.append(Window(fps, numbers, known, new))
            done.update(new)
    return result


def _consecutive(count: int, length: int, overlap: int) -> Iterator[tuple[int, int]]:
    """First frame of each window and its last new one, at the lowest rate."""
    done = 0
    while done < count - 1:
        first = min(max(0, done + 1 - overlap), count - length)
        done = first + length - 1
        yield first, done


def _in_between(
    count: int, length: int, times: int, last_known: int
) -> Iterator[tuple[int, int]]:
    """The same at a higher rate, where each ``times``-th frame is known."""
    done = 0
    while done < count - 1:
        end = min((done + length - 1) // times * times, last_known, count - 1)
        if end <= done:  # no known frame is left
            end = count - 1
        first = max(0, end - length + 1)
        if first + length >= count:
            first, end = count - length, count - 1
        yield first, end
        done = end


def _text(rates: Sequence[float]) -> str:
    return ",".join(f"{rate:g}" for rate in rates)
