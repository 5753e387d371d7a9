"""One shard of the output, the unit of work: written as a whole, or already finished.

A hash of their names assigns files to shards, and names determine their order, so the
bytes of a shard depend neither on the worker nor on the time. A shard consists of an
ArrayRecord file for each stage, a file with the headers of its records, and a report,
written last, of its inputs. A shard with a report is finished.
"""

import hashlib
import json
import logging
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from snapvideo_jax.data.prepare import storage
from snapvideo_jax.data.prepare.config import PrepareConfig
from snapvideo_jax.data.prepare.files import (
    Prepared,
    Rejected,
    check_megabytes,
    prepare_file,
)
from snapvideo_jax.data.records import RecordWriter, headers_of
from snapvideo_jax.io.captions import Fields

log = logging.getLogger(__name__)

REPORTS = "shards"
SECONDS = (0, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600)
"""Lower bounds of the bins of the histogram of lengths."""

Report = dict[str, Any]
"""Contents of a shard: "inputs" (a hash), "files" by name, "stages" and "source"
(counts that `manifest` adds up) and "rejected"."""


def shard_names(config: PrepareConfig, kind: str) -> list[str]:
    """Names of all shards of a kind."""
    count = config.video_shards if kind == "video" else config.image_shards
    return [f"{kind}-{number:05}-of-{count:05}" for number in range(count)]


def shard_of(config: PrepareConfig, entry: Fields) -> str:
    """Name of the shard that a file belongs to."""
    names = shard_names(config, entry["type"])
    digest = hashlib.sha256(entry["file"].encode()).digest()
    return names[int.from_bytes(digest[:8], "big") % len(names)]


def report_name(shard: str) -> str:
    """Name of a shard's report within the output."""
    return f"{REPORTS}/{shard}.json"


def file_name(stage: str, shard: str) -> str:
    """Name of a shard's records of a stage within the output."""
    return f"{stage}/{shard}.array_record"


def make_shard(
    config: PrepareConfig, out: str, shard: str, entries: Sequence[Fields]
) -> bool:
    """Writes a shard, unless it is finished.

    Args:
        config: stages and rules.
        out: folder of the output.
        shard: its name.
        entries: its lines of captions.jsonl, in any order.

    Returns:
        Whether it was finished before.
    """
    entries = sorted(entries, key=lambda e: (e["file"], json.dumps(e, sort_keys=True)))
    sizes = [storage.size(storage.join(config.source, e["file"])) for e in entries]
    inputs = hashlib.sha256(json.dumps([entries, sizes], sort_keys=True).encode())
    finished = storage.read_json(storage.join(out, report_name(shard)))
    if finished and finished["inputs"] == inputs.hexdigest() and _whole(out, finished):
        return True
    names = {stage: file_name(stage, shard) for stage in config.stages}
    # The report first: a shard must not look finished while it changes.
    storage.delete(storage.join(out, report_name(shard)))
    for name in names.values():
        storage.delete(*(storage.join(out, each) for each in _both(name)))
    tally = _Tally(inputs.hexdigest())
    with tempfile.TemporaryDirectory() as folder:
        written = {stage: Path(folder) / stage for stage in names}
        with ExitStack() as stack:
            writers: dict[str, RecordWriter] = {}
            for entry, size in zip(entries, sizes, strict=True):
                try:
                    prepared = prepare_file(config, entry, _read(config, entry, size))
                except Rejected as error:
                    tally.reject(entry, "", error.rule, str(error))
                    continue
                tally.add(entry, prepared)
                for stage, records in prepared.records.items():
                    if records and stage not in writers:
                        writer = RecordWriter(written[stage])
                        writers[stage] = stack.enter_context(writer)
                    for record in records:
                        writers[stage].write(record)
        for stage in writers:
            made = written[stage], headers_of(written[stage])
            for name, path in zip(_both(names[stage]), made, strict=True):
                tally.report["files"][name] = storage.store(out, name, _parts(path))
    storage.store_json(out, report_name(shard), tally.report)
    log.info("%s: %d files, %d rejections", shard, len(entries), tally.rejections)
    return False


def _read(config: PrepareConfig, entry: Fields, size: int | None) -> bytes:
    """Content of a file, unless it is missing or too large."""
    if "malformed" in entry:
        raise Rejected("malformed", entry["malformed"])
    if size is None:
        raise Rejected("missing", "no such file")
    check_megabytes(config.rules, size)
    try:
        return storage.read(storage.join(config.source, entry["file"]))
    except IsADirectoryError:
        raise Rejected("missing", "is a folder") from None


def _whole(out: str, report: Report) -> bool:
    """Whether all files of a report exist in their size."""
    return all(
        storage.size(storage.join(out, name)) == content["bytes"]
        for name, content in report["files"].items()
    )


def _both(name: str) -> tuple[str, str]:
    """Names of the files of a stage's records and of their headers."""
    return name, str(headers_of(Path(name)))


def _parts(path: Path, length: int = 1 << 24):
    with path.open("rb") as file:
        while part := file.read(length):
            yield part


class _Tally:
    """Collects the report of a shard."""

    def __init__(self, inputs: str):
        self.report: Report = {"inputs": inputs, "files": {}, "stages": {}}
        self.report |= {"source": {}, "rejected": []}

    @property
    def rejections(self) -> int:
        return len(self.report["rejected"])

    def reject(self, entry: Fields, stage: str, rule: str, reason: str) -> None:
        """Adds a file that is rejected for one stage or, with "", for all."""
        line = {"file": entry["file"], "stage": stage, "rule": rule, "reason": reason}
        self.report["rejected"].append(line)

    def add(self, entry: Fields, prepared: Prepared) -> None:
        """Counts a file that is used, and its records."""
        kind, facts = entry["type"], prepared.facts
        for stage, reason in prepared.too_small.items():
            self.reject(entry, stage, "too_small", reason)
        counted = {"resolution": f"{facts.width}x{facts.height}"}
        if kind == "video":
            counted |= {
                "codec": facts.codec,
                "fps": str(round(facts.fps)),
                "seconds": _length_class(facts.seconds),
            }
        source = self.report["source"].setdefault(kind, {"files": 0})
        source["files"] += 1
        for name, value in counted.items():
            classes = source.setdefault(name, {})
            classes[value] = classes.get(value, 0) + 1
        for stage, records in prepared.records.items():
            zeros = {"records": 0, "frames": 0, "seconds": 0.0, "bytes": 0}
            kinds = self.report["stages"].setdefault(stage, {})
            sums = kinds.setdefault(kind, zeros)
            for record in records:
                sums["records"] += 1
                sums["frames"] += record["frames"]
                sums["bytes"] += len(record["data"])
                if kind == "video":
                    sums["seconds"] += (record["frames"] - 1) / record["fps"]


def _length_class(seconds: float) -> str:
    bound = max(bound for bound in SECONDS if bound <= seconds)
    return f"{bound} or more"
