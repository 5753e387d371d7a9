"""Reads files with votes, which the page of a study saves, and its key."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snapvideo_jax.evaluation.pages.study import FORMAT


@dataclass(frozen=True)
class Vote:
    """One answer.

    rater: name of the rater.
    pair: id of the pair.
    question: name of the criterion.
    choice: "a", the left clip, or "b".
    """

    rater: str
    pair: str
    question: str
    choice: str


def read_key(path: Path) -> dict[str, Any]:
    """The key of a study.

    Raises:
        ValueError: the file is not a key, or has another version.
    """
    key = _read_json(path, "key of a study")
    kinds = {"study": str, "methods": list, "questions": list, "pairs": dict}
    if not all(isinstance(key.get(name), kind) for name, kind in kinds.items()):
        raise ValueError(f"{path} is not a key of a study; use the file of --key.")
    return key


def read_votes(paths: Sequence[Path], key: dict[str, Any]) -> list[Vote]:
    """The votes of all files.

    The votes of a rater may be in several files, for example from two browsers, but
    every question about a pair is answered once.

    Raises:
        ValueError: a file has no votes or those of another study, a vote does not match
            the key, or a rater voted twice.
    """
    votes: dict[tuple[str, str, str], tuple[Vote, Path]] = {}
    for path in paths:
        for vote in _votes_of(path, key):
            answer = vote.rater, vote.pair, vote.question
            if answer in votes:
                raise ValueError(
                    f"{vote.rater!r} voted twice on {vote.question} of pair "
                    f"{vote.pair}, in {votes[answer][1]} and in {path}; leave one file "
                    "out, or change the name in it where two raters share one."
                )
            votes[answer] = vote, path
    return [vote for vote, _ in votes.values()]


def _votes_of(path: Path, key: dict[str, Any]) -> list[Vote]:
    content = _read_json(path, "file with votes")
    rater, listed = content.get("rater"), content.get("votes")
    if not isinstance(rater, str) or not rater.strip() or not isinstance(listed, list):
        raise ValueError(
            f"{path} is not a file with votes: it has no rater or no votes."
        )
    if content.get("study") != key["study"]:
        raise ValueError(
            f"{path} has votes of study {content.get('study')!r}, and the key is of "
            f"{key['study']!r}; leave it out, or use the key of its study."
        )
    votes = []
    for line in listed:
        vote = line if isinstance(line, dict) else {}
        known = {
            "pair": list(key["pairs"]),
            "question": key["questions"],
            "choice": ["a", "b"],
        }
        for name, values in known.items():
            if vote.get(name) not in values:
                raise ValueError(
                    f"{path} has a vote with {name}={vote.get(name)!r}, which this "
                    "study does not have; ask its rater for the file as downloaded."
                )
        votes.append(Vote(rater.strip(), *(vote[name] for name in known)))
    return votes


def _read_json(path: Path, what: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not a {what} ({error}).") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{path} is not a {what} of format {FORMAT}.")
    return content
