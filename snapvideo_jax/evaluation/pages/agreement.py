"""Inter-rater agreement: Krippendorff's alpha for nominal values.

Unlike Fleiss' kappa it allows missing answers and any number of raters for each unit.
It is 1 for full agreement and 0 for that of chance.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence


def krippendorff_alpha(units: Iterable[Sequence[Hashable]]) -> float | None:
    """Alpha = 1 - observed / expected disagreement, for nominal values.

    Args:
        units: the values that raters gave to each unit, without missing ones; a unit
            with one value is ignored.

    Returns:
        None where no unit has two values, or all values are equal, so that the
        agreement by chance is unknown.

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
    """Share of pairs of raters of a unit who gave it the same value.

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
