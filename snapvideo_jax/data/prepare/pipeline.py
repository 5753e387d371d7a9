"""The Beam pipeline from a list of captioned files to ArrayRecord shards.

    captions.jsonl → shard of each line → lines by shard → shards → manifest

Only lines of text pass through Beam's grouping, never media: each shard's files are
read, probed, filtered, cut and encoded by the worker that writes the shard. Shards
finish one after another, and an interrupted run only loses the unfinished ones.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from typing import Any

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics import Metrics, MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import PipelineState

from snapvideo_jax.data.prepare import storage
from snapvideo_jax.data.prepare.config import PrepareConfig, absolute
from snapvideo_jax.data.prepare.manifest import write_manifest
from snapvideo_jax.data.prepare.shards import (
    REPORTS,
    make_shard,
    report_name,
    shard_names,
    shard_of,
)
from snapvideo_jax.io import saved_settings
from snapvideo_jax.io.captions import CAPTIONS, KINDS, Fields, parse_line

FORMAT = 2
"""Version of the output; it changes when the same input gives other bytes."""
SETTINGS = "settings.json"
MADE_WITH = ("av", "array-record", "pillow")
"""Packages whose version may change the bytes of the output."""


@dataclasses.dataclass(frozen=True)
class PrepareResult:
    """Result of a run.

    manifest: see `write_manifest`.
    finished_before, written: number of shards.
    """

    manifest: dict[str, Any]
    finished_before: int
    written: int


def prepare(
    config: PrepareConfig, out: str, beam_options: Sequence[str] = ()
) -> PrepareResult:
    """Prepares a data set; repeating an interrupted call resumes it.

    Args:
        config: what is prepared, and how.
        out: folder of the output, used by one run at a time.
        beam_options: such as ``--runner=DirectRunner``.

    Raises:
        ValueError: there is no list of captions, or the folder was started with other
            settings.
        RuntimeError: Beam did not finish.
    """
    check_list(config.source)
    out = absolute(out)
    settings = _begin(config, out)
    pipeline = beam.Pipeline(options=PipelineOptions(list(beam_options)))
    lines = (
        pipeline
        | "List"
        >> beam.io.ReadFromText(
            storage.join(config.source, CAPTIONS), coder=beam.coders.BytesCoder()
        )
        | "Parse" >> beam.FlatMap(parsed)
        | "Hash" >> beam.Map(_with_shard, config)
    )
    names = [name for kind in KINDS for name in shard_names(config, kind)]
    # All shards are visited, so that one that lost its last file is rewritten.
    shards = pipeline | "Shards" >> beam.Create([(name, None) for name in names])
    _ = (
        (lines, shards)
        | beam.Flatten()
        | "By shard" >> beam.GroupByKey()
        | "Make" >> beam.ParDo(_MakeShard(config, out))
    )
    result = pipeline.run()
    if (state := result.wait_until_finish()) != PipelineState.DONE:
        raise RuntimeError(f"Beam ended as {state}; run the same command to resume.")
    reports = [
        storage.read_json(storage.join(out, report_name(name))) for name in names
    ]
    manifest = write_manifest(out, settings, reports)
    storage.delete(storage.join(out, storage.TEMPORARY))
    finished = _count(result, "finished_before")
    return PrepareResult(manifest, finished, len(names) - finished)


def parsed(line: bytes) -> Iterator[Fields]:
    """The fields of a line of captions.jsonl; nothing for a blank line.

    An unusable line gives fields with the key "malformed", which says why: one among
    millions does not end the run.
    """
    try:
        entry = parse_line(line)
    except ValueError as error:
        where = f"{CAPTIONS}: {line[:80].strip().decode('utf-8', 'replace')}"
        yield {"file": where, "type": "video", "malformed": f"its line {error}"}
    else:
        if entry is not None:
            yield entry.fields


def check_list(source: str) -> None:
    """Checks that there is a list, and its first line.

    Raises:
        ValueError: there is none, it is empty, or its first line is malformed.
    """
    path = storage.join(source, CAPTIONS)
    if storage.size(path) is None:
        raise ValueError(
            f"source={source!r} has no {CAPTIONS}; write one with a line "
            '{"file": ..., "type": "video" or "image", "caption": ...} for each file.'
        )
    with FileSystems.open(path) as file:
        for line in iter(file.readline, b""):
            for entry in parsed(line):
                if "malformed" in entry:
                    raise ValueError(f"{entry['file']}: {entry['malformed']}.")
                return
    raise ValueError(f"source={source!r} has an empty {CAPTIONS}; nothing to prepare.")


def _begin(config: PrepareConfig, out: str) -> dict[str, Any]:
    """Writes the settings to the output, or checks them against those there."""
    versions = {name: version(name) for name in MADE_WITH}
    settings = dataclasses.asdict(config) | {"format": FORMAT, "made_with": versions}
    noted = storage.read_json(storage.join(out, SETTINGS))
    if noted is None:
        for folder in (out, *(storage.join(out, n) for n in (REPORTS, *config.stages))):
            storage.make_folder(folder)
        storage.store_json(out, SETTINGS, settings)
        return settings
    saved_settings.check_same(settings, noted, f"--out={out}")
    return settings


def _with_shard(entry: Fields, config: PrepareConfig) -> tuple[str, Fields]:
    return shard_of(config, entry), entry


class _MakeShard(beam.DoFn):
    """Writes a shard from its lines; counts shards that were finished before."""

    def __init__(self, config: PrepareConfig, out: str):
        self._config, self._out = config, out

    def process(self, element: tuple[str, Iterable[Fields | None]]) -> None:
        shard, entries = element
        mine = [entry for entry in entries if entry is not None]
        finished = make_shard(self._config, self._out, shard, mine)
        counter = "finished_before" if finished else "written"
        Metrics.counter("prepare", counter).inc()


def _count(result: Any, name: str) -> int:
    query = MetricsFilter().with_namespace("prepare").with_name(name)
    counters = result.metrics().query(query)["counters"]
    return sum(counter.result for counter in counters)
