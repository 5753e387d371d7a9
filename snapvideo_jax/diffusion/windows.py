"""Which frames of a long video are made when (App. C.5).

A video is made at rising frame-rates, a clip of the network's length at a time. At the
lowest rate each clip goes on from the last frame that was made, or from more of them,
which tell how fast things move [C]. At every higher rate clips fill in what lies
between frames of the rate below, and know all frames that there are: a clip ends on one
of these, so that it never has to guess what comes next, and begins as far back as its
length allows, over frames of the clip before it [C]. What comes after the last frame of
the rate below goes on freely.

Frames have their numbers in the finished video, at its highest rate.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence


@dataclasses.dataclass(frozen=True)
class Window:
    """A clip that is made in one go.

    Attributes:
      fps: its frame-rate.
      frames: numbers of its frames.
      known: those of them that are there before.
      made: those that are kept of the others.
    """

    fps: float
    frames: tuple[int, ...]
    known: tuple[int, ...]
    new: tuple[int, ...]


def check_rates(rates: Sequence[float], length: int) -> None:
    """Looks at the frame-rates of a hierarchy.

    Args:
      rates: rising.
      length: frames of a clip.

    Raises:
      ValueError: a rate is not a whole number of times the one before it, or so many
        times that no clip would reach from one known frame to the next.
    """
    if not rates or min(rates) <= 0:
        raise ValueError(
            f"--rates={_text(rates)} are no frame-rates; use some above 0."
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
    """The clips of a video, in the order in which they are made.

    Args:
      frames: of the video; where the last clip of a rate reaches beyond, more are made.
      rates: as `check_rates` wants them.
      length: frames of a clip.
      given: numbers of frames that are known from the start.
      overlap: frames of the clip before that a clip goes on from, at the lowest rate.

    Raises:
      ValueError: clips are single frames, which cannot go on from one another, or the
        overlap leaves no frame to be made.
    """
    if length < 2:
        raise ValueError(
            "This network makes single frames, and a video goes on from frame to "
            "frame; use one with data.frames=2 or more."
        )
    if not 1 <= overlap < length:
        raise ValueError(
            f"--overlap={overlap} is out of range; use 1 to {length - 1}, as a clip "
            f"has {length} frames."
        )
    there, result = set(given), []
    spaces = [round(rates[-1] / rate) for rate in rates]
    for level, (fps, space) in enumerate(zip(rates, spaces, strict=True)):
        count = max(-(-frames // space), length)
        if level == 0:
            spans = _going_on(count, length, overlap)
        else:
            times = spaces[level - 1] // space
            below = max(-(-frames // spaces[level - 1]), length)
            spans = _filling_in(count, length, times, (below - 1) * times)
        for first, last in spans:
            numbers = tuple(space * (first + k) for k in range(length))
            known = tuple(number for number in numbers if number in there)
            made = tuple(
                number
                for number in numbers
                if number <= space * last and number not in there
            )
            if made:
                result.append(Window(fps, numbers, known, made))
            there.update(made)
    return result


def _going_on(count: int, length: int, overlap: int) -> Iterator[tuple[int, int]]:
    """First frame of each clip, and the last that is kept, at the lowest rate."""
    done = 0
    while done < count - 1:
        first = min(max(0, done + 1 - overlap), count - length)
        done = first + length - 1
        yield first, done


def _filling_in(
    count: int, length: int, times: int, last_known: int
) -> Iterator[tuple[int, int]]:
    """The same at a higher rate, where each ``times``-th frame is known."""
    done = 0
    while done < count - 1:
        end = min((done + length - 1) // times * times, last_known, count - 1)
        if end <= done:  # nothing is known any more
            end = count - 1
        first = max(0, end - length + 1)
        if first + length >= count:
            first, end = count - length, count - 1
        yield first, end
        done = end


def _text(rates: Sequence[float]) -> str:
    return ",".join(f"{rate:g}" for rate in rates)
