"""The tally of a study: percentages of votes, their intervals, agreement."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from snapvideo_jax.evaluation.pages.agreement import (
    krippendorff_alpha,
    pairwise_agreement,
)
from snapvideo_jax.evaluation.pages.votes import Vote

RESAMPLES = 2000
CONFIDENCE = 0.95


def tally(
    votes: Sequence[Vote],
    key: dict[str, Any],
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """Percentages of votes for the first method against each other one, by question.

    Agreement is computed on the sides that were shown. Sides are random, so both are
    chosen about equally often; with the names of methods, a method that nearly always
    wins would make agreement look like chance.

    Args:
        votes: of any number of raters, who may have skipped questions.
        key: of the study.
        seed: of the bootstrap.
        resamples: of the bootstrap, at least 1.

    Raises:
        ValueError: there are no votes.
    """
    if not votes:
        raise ValueError("There are no votes; give files with votes.")
    ours, *rivals = key["methods"]
    table = {
        rival: {
            question: _share(
                _counts(votes, key, rival, question), [seed, i, j], resamples
            )
            for j, question in enumerate(key["questions"])
        }
        for i, rival in enumerate(rivals)
    }
    raters = sorted({vote.rater for vote in votes})
    return {
        "study": key["study"],
        "method": ours,
        "raters": raters,
        "votes": len(votes),
        "votes_wanted": len(raters) * len(key["pairs"]) * len(key["questions"]),
        "table": table,
        "agreement": {
            question: _agreement([vote for vote in votes if vote.question == question])
            for question in key["questions"]
        },
        "interval": {
            "confidence": CONFIDENCE,
            "resamples": resamples,
            "seed": seed,
            "resampled": "pairs, each with all of its votes",
        },
    }


def bootstrap_interval(
    wins: Int[np.ndarray, "n"],
    counts: Int[np.ndarray, "n"],
    seed: Sequence[int],
    resamples: int,
) -> tuple[float, float] | None:
    """Bootstrap interval of a share of votes, in percent, over pairs.

    Votes on one pair are correlated, so whole pairs are resampled; resampling single
    votes would give intervals that are too narrow.

    Args:
        wins: votes for the method, of each pair.
        counts: all votes, of each pair, at least 1.
        seed: of the bootstrap.
        resamples: their number.

    Returns:
        None where there is only one pair.
    """
    if len(counts) < 2:
        return None
    rng = np.random.default_rng(seed)
    picks = rng.integers(len(counts), size=(resamples, len(counts)))
    shares: Float[np.ndarray, "r"] = wins[picks].sum(1) / counts[picks].sum(1)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(100 * shares, [tail, 1 - tail])
    return float(low), float(high)


def describe(result: dict[str, Any]) -> str:
    """The table as text: a row for each other method, then the agreement."""
    questions = list(result["agreement"])
    names = [question.replace("_", " ") for question in questions]
    rows = [[f"{result['method']} over", *names]]
    rows += [
        [rival, *(_cell(found[question]) for question in questions)]
        for rival, found in result["table"].items()
    ]
    for name, title in (("alpha", "alpha"), ("agreeing", "agreeing")):
        values = [result["agreement"][question][name] for question in questions]
        form = "{:.3f}" if name == "alpha" else "{:.1f} %"
        rows.append(
            [title, *("-" if value is None else form.format(value) for value in values)]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
    lines.insert(-2, "")
    raters, wanted = len(result["raters"]), result["votes_wanted"]
    about = f"{result['votes']} of {wanted} votes, {raters} rater" + "s" * (raters != 1)
    return "\n".join(
        [
            *(line.rstrip() for line in lines),
            "",
            f"% of votes [{CONFIDENCE:.0%} interval over pairs]; {about}. alpha: "
            "Krippendorff's, of the sides chosen;",
            "agreeing: pairs of raters who chose the same clip.",
        ]
    )


def _counts(votes, key, rival, question) -> list[tuple[int, int]]:
    """Votes for the first method and all votes, of each pair with another method."""
    counts: dict[str, tuple[int, int]] = {}
    for vote in votes:
        pair = key["pairs"][vote.pair]
        if vote.question != question or rival not in (pair["a"], pair["b"]):
            continue
        won, count = counts.get(vote.pair, (0, 0))
        counts[vote.pair] = won + (pair[vote.choice] != rival), count + 1
    # In the order of the key, so that intervals do not depend on the order of files.
    return [counts[pair] for pair in key["pairs"] if pair in counts]


def _share(counts: list[tuple[int, int]], seed, resamples) -> dict[str, Any]:
    if not counts:
        return {"percent": None, "interval": None, "votes": 0, "pairs": 0}
    wins, of = np.array(counts).T
    return {
        "percent": 100 * float(wins.sum() / of.sum()),
        "interval": bootstrap_interval(wins, of, seed, resamples),
        "votes": int(of.sum()),
        "pairs": len(of),
    }


def _agreement(votes: Sequence[Vote]) -> dict[str, float | None]:
    units = defaultdict(list)
    for vote in votes:
        units[vote.pair].append(vote.choice)
    agreeing = pairwise_agreement(units.values())
    return {
        "alpha": krippendorff_alpha(units.values()),
        "agreeing": None if agreeing is None else 100 * agreeing,
    }


def _cell(found: dict[str, Any]) -> str:
    if found["percent"] is None:
        return "-"
    text = f"{found['percent']:.1f}"
    if found["interval"]:
        low, high = found["interval"]
        text += f" [{low:.1f}, {high:.1f}]"
    return text
