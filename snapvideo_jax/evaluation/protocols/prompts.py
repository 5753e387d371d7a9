"""The prompts of a protocol, and their classes: one entry for every index."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from snapvideo_jax.evaluation.protocols.settings import Protocol
from snapvideo_jax.evaluation.protocols.ucf101 import PROMPTS
from snapvideo_jax.io.captions import read_entries, read_prompts


class Entry(NamedTuple):
    """One clip to sample; ``label`` is its class, None without classes."""

    index: int
    prompt: str
    label: str | None = None


def entries(
    protocol: Protocol, count: int, captions: Path | None, classes: Path | None
) -> list[Entry]:
    """The entries of every point, in order; a function of the arguments alone.

    Args:
      protocol: whose prompts they are.
      count: number of clips. Fewer than the captions takes evenly spaced ones, more
        repeats them from the first.
      captions: MSR-VTT's test_videodatainfo.json; or captions, one per line, or .jsonl
        objects with a caption.
      classes: of UCF-101: its folder of videos, or a list such as testlist01.txt, whose
        class frequencies are reproduced.

    Raises:
      ValueError: a file is missing or cannot be used.
    """
    if protocol.prompts == "ucf101":
        if not classes:
            raise ValueError(
                f"{protocol.name} samples classes as often as UCF-101 has them; give "
                "--classes, its folder of videos or a list such as testlist01.txt."
            )
        share = quotas(class_counts(classes), count)
        labels = [label for label in PROMPTS for _ in range(share.get(label, 0))]
        return [Entry(i, PROMPTS[label], label) for i, label in enumerate(labels)]
    if not captions:
        wanted = "test_videodatainfo.json" if protocol.prompts == "msr-vtt" else "FILE"
        raise ValueError(f"{protocol.name} needs --captions {wanted}.")
    found = read_captions(captions, protocol.prompts == "msr-vtt")
    if count < len(found):
        chosen = [found[i * len(found) // count] for i in range(count)]
    else:
        chosen = [found[i % len(found)] for i in range(count)]
    return [Entry(index, prompt) for index, prompt in enumerate(chosen)]


def quotas(counts: Mapping[str, int], total: int) -> dict[str, int]:
    """``total`` divided in proportion to ``counts``, by largest remainders.

    The expectation of sampling classes at random, without its variance.
    """
    names, sizes = list(counts), np.array(list(counts.values()), float)
    exact = total * sizes / sizes.sum()
    share = np.floor(exact).astype(int)
    rest = np.argsort(share - exact, kind="stable")[: total - share.sum()]
    share[rest] += 1
    return dict(zip(names, share.tolist(), strict=True))


def class_counts(path: Path) -> dict[str, int]:
    """Number of clips of every class, in the order of the prompts.

    Raises:
      ValueError: the path is missing, names no clip, or an unknown class.
    """
    by_lower = {name.lower(): name for name in PROMPTS}
    if path.is_dir():
        found = [each.parent.name for each in sorted(path.glob("*/*.avi"))]
    elif path.is_file():
        lines = path.read_text("utf-8", "replace").split("\n")
        found = [line.split("/")[0].strip() for line in lines if "/" in line]
    else:
        raise ValueError(f"--classes={path}: there is no such folder or list.")
    unknown = [name for name in found if name.lower() not in by_lower]
    if unknown or not found:
        what = f"{unknown[0]!r}, not a class of UCF-101" if unknown else "no clip"
        raise ValueError(
            f"--classes={path} names {what}; wanted CLASS/VIDEO.avi, in folders or a "
            "line each."
        )
    counts = Counter(by_lower[name.lower()] for name in found)
    return {name: counts[name] for name in PROMPTS if counts[name]}


def read_captions(path: Path, is_msr_vtt: bool) -> list[str]:
    """The captions in a file, in order.

    Raises:
      ValueError: the file is missing or has no caption.
    """
    if not path.is_file():
        raise ValueError(f"--captions={path}: there is no such file.")
    if is_msr_vtt and path.suffix == ".json":
        found = _test_sentences(path)
    elif path.suffix == ".jsonl":
        listed = read_entries(path, require=())
        found = [each.caption for each in listed if each.type == "video"]
    else:
        found = read_prompts(path, "--captions")
    if not found:
        raise ValueError(f"--captions={path} has no caption.")
    return found


def _test_sentences(path: Path) -> list[str]:
    """Captions of MSR-VTT's test clips; the official file has 59,800."""
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        test = {row["video_id"] for row in about["videos"] if row["split"] == "test"}
        rows = [row for row in about["sentences"] if row["video_id"] in test]
        return [row["caption"] for row in sorted(rows, key=lambda row: row["sen_id"])]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"--captions={path} cannot be read: {error!r}.") from error
