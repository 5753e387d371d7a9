"""Who is next, where several share a sequence by weight: a table that repeats.

For weights ``w`` that add up to 1 and after any number ``n`` of draws, each has been
drawn ``n w`` times up to less than one. This is the chairman's problem: among those
that have waited long enough, the one is next that would otherwise first be late.

R. Tijdeman, The chairman assignment problem, Discrete Mathematics 32 (1980).
"""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

MAX_DRAWS = 100_000
"""Draws within which weights have to come out in whole numbers."""


class Schedule:
    """A sequence without end of the numbers 0 to k-1, each by its weight.

    Any place of it is found at once.

    Args:
        weights: of each, above 0; only their ratios matter.
        where: name of the setting, for the error.

    Raises:
        ValueError: the weights need too long a table.
    """

    def __init__(self, weights: Sequence[float], where: str):
        # As they are written: 0.1 is a tenth.
        exact = [Fraction(str(float(weight))) for weight in weights]
        unit = math.lcm(*(each.denominator for each in exact))
        whole = [int(each * unit) for each in exact]
        whole = [each // math.gcd(*whole) for each in whole]
        if sum(whole) > MAX_DRAWS:
            raise ValueError(
                f"{where}={', '.join(f'{weight:g}' for weight in weights)} come out in "
                f"whole numbers only after {sum(whole):,} draws; round them to fewer "
                f"digits, for at most {MAX_DRAWS:,}."
            )
        self.counts = whole
        """Draws of each in a table."""
        self._order = _table(np.asarray(whole, np.int64))
        before = np.zeros(len(self._order), np.int64)
        for each, count in enumerate(whole):
            before[self._order == each] = np.arange(count)
        self._before = before

    def __getitem__(self, draw: int) -> tuple[int, int]:
        """Who has a draw, and how many draws it had before."""
        tables, place = divmod(draw, len(self._order))
        who = int(self._order[place])
        return who, tables * self.counts[who] + int(self._before[place])


def _table(counts: np.ndarray) -> np.ndarray:
    """Tijdeman's rule, in whole numbers: for k, weights count / total."""
    total, others = int(counts.sum()), 2 * (len(counts) - 1)
    if not others:
        return np.zeros(total, np.int16)
    order = np.empty(total, np.int16)
    owed = np.zeros_like(counts)  # (n w - draws), times the total
    for place in range(total):
        owed += counts
        # Late when it is owed more than 1 - 1/(2k-2): the steps that are left until.
        left = (total * (others - 1) - others * owed) / counts
        left[others * owed < total] = np.inf
        who = int(left.argmin())
        order[place] = who
        owed[who] -= total
    return order
