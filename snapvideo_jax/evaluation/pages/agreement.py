"""How far raters agree: Krippendorff's alpha for names.

Unlike Fleiss' kappa it allows raters who answered only a part, and any number of them
for each unit. It is 1 where all agree and 0 where they agree as often as by chance.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence


def krippendorff_alpha(units: Iterable[Sequence[Hashable]]) -> float | None:
    """Alpha = 1 - observed / expected disagreement, for nominal values.

    Args:
        units: the values that raters gave to each unit, absent ones left out; a unit
            with one value says nothing of agreement.

    Returns:
        None where no unit has two values, or all values are equal: chance is then
        unknown.

    Source: K. Krippendorff, Computing Krippendorff's Alpha-Reliability, 2011.
    """
    totals: Counter[Hashable] = Counter()
    observed = 0.0
    for unit in units:
        if len(unit) < 2:
            continue
        counts = Counter(unit)
        totals.update(counts)
        observed += _unlike_pairs(counts) / (len(unit) - 1)
    count, expected = sum(totals.values()), _unlike_pairs(totals)
    return 1 - (count - 1) * observed / expected if expected else None


def pairwise_agreement(units: Iterable[Sequence[Hashable]]) -> float | None:
    """Share of pairs of raters, of one unit, who gave it the same value.

    Args:
        units: as of `krippendorff_alpha`.

    Returns:
        None where no unit has two values.
    """
    pairs = unlike = 0
    for unit in units:
        pairs += len(unit) * (len(unit) - 1)
        unlike += _unlike_pairs(Counter(unit))
    return 1 - unlike / pairs if pairs else None


def _unlike_pairs(counts: Counter) -> int:
    """Ordered pairs of different values."""
    total = sum(counts.values())
    return total**2 - sum(count**2 for count in counts.values())
