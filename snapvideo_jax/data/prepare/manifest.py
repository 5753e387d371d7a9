"""The summary of a prepared folder, over all shards."""

import json
from collections.abc import Sequence
from typing import Any

from snapvideo_jax.data.prepare import storage
from snapvideo_jax.data.prepare.config import MANIFEST
from snapvideo_jax.data.prepare.shards import Report

REJECTED = "rejected.jsonl"


def write_manifest(out: str, settings: dict, reports: Sequence[Report]) -> dict:
    """Writes `MANIFEST`, and `REJECTED` with a line for each rejected file.

    Args:
        out: the folder.
        settings: of the preparation.
        reports: of all shards, in their order.

    Returns:
        The manifest: ``settings``; ``stages`` with records, frames, bytes and hours
        of each kind; ``source`` with histograms of the used files;
        ``rejected`` files by rule; ``files`` with their sha256.
    """
    sums: dict[str, Any] = {"stages": {}, "source": {}, "files": {}}
    rejected = [line for report in reports for line in report["rejected"]]
    for report in reports:
        for part in sums:
            sums[part] = _sum(sums[part], report[part])
    for kinds in sums["stages"].values():
        for kind in kinds.values():
            kind["hours"] = round(kind.pop("seconds") / 3600, 6)
    rules: dict[str, int] = {}
    for line in rejected:
        rules[line["rule"]] = rules.get(line["rule"], 0) + 1
    manifest = {"settings": settings, "rejected": rules} | sums
    lines = (json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in rejected)
    storage.store(out, REJECTED, lines)
    storage.store_json(out, MANIFEST, manifest)
    return manifest


def _sum(one: Any, other: Any) -> Any:
    """The sum of two trees of numbers; a leaf that one lacks counts as zero."""
    if not isinstance(one, dict):
        return one + other
    both = one.keys() & other.keys()
    return one | other | {name: _sum(one[name], other[name]) for name in both}
