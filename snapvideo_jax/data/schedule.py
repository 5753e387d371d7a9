"""Deterministic weighted round robin from a periodic table.

For weights ``w`` that sum to 1 and after any number ``n`` of draws, each member has
been drawn ``n w`` times, up to less than one. This is the chairman assignment problem:
of the members that are eligible, the one with the earliest deadline is drawn.

R. Tijdeman, The chairman assignment problem, Discrete Mathematics 32 (1980).
"""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

MAX_DRAWS = 100_000
"""Maximum length of the table: the period of the weights in whole draws."""


class Schedule:
    """An endless sequence of the members 0 to k-1 by weight, with random access.

    Args:
        weights: of the members, above 0; only their ratios matter.
        where: name of the setting, for the error.

    Raises:
        ValueError: the weights need too long a table.
    """

    def __init__(self, weights: Sequence[float], where: str):
        # Decimal values as written: 0.1 is 1/10.
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
        """Draws of each member per period."""
        self._order = _table(np.asarray(whole, np.int64))
        before = np.zeros(len(self._order), np.int64)
        for each, count in enumerate(whole):
            before[self._order == each] = np.arange(count)
        self._before = before

    def __getitem__(self, draw: int) -> tuple[int, int]:
        """The member of a draw, and the number of its earlier draws."""
        periods, place = divmod(draw, len(self._order))
        member = int(self._order[place])
        return member, periods * self.counts[member] + int(self._before[place])


def _table(counts: np.ndarray) -> np.ndarray:
    """One period by Tijdeman's rule, in integers: member k has weight count / total."""
    total, others = int(counts.sum()), 2 * (len(counts) - 1)
    if not others:
        return np.zeros(total, np.int16)
    order = np.empty(total, np.int16)
    owed = np.zeros_like(counts)  # (n w - draws), times the total
    for place in range(total):
        owed += counts
        # Steps until a member is owed 1 - 1/(2k-2); it is eligible from 1/(2k-2) on.
        left = (total * (others - 1) - others * owed) / counts
        left[others * owed < total] = np.inf
        member = int(left.argmin())
        order[place] = member
        owed[member] -= total
    return order
