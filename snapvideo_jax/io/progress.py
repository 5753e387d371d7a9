"""Progress: a bar on a terminal, lines in a log."""

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import tqdm

logger = logging.getLogger(__name__)

Item = TypeVar("Item")


def progress(
    items: Iterable[Item],
    total: int,
    initial: int = 0,
    name: str = "step",
    is_writer: bool = True,
    interval_seconds: float = 30.0,
) -> Iterator[Item]:
    """Yields ``items``, and reports their progress and the time left.

    On a terminal this is a bar. Elsewhere (a log file, a pod) it is an INFO log line
    every ``interval_seconds`` and one at the end.

    Args:
        items: to iterate over.
        total: number of all items, including those that an earlier run finished.
        initial: number that an earlier run finished.
        name: of one item.
        is_writer: False reports nothing; True for one process only.
        interval_seconds: time between log lines.
    """
    if not is_writer:
        yield from items
        return
    if sys.stderr.isatty():
        yield from tqdm.tqdm(items, name, total, initial=initial, dynamic_ncols=True)
        return
    done = last_done = initial
    last = time.monotonic()
    for item in items:
        yield item
        done += 1
        now = time.monotonic()
        if now - last >= interval_seconds or done == total:
            rate = (done - last_done) / max(now - last, 1e-9)
            logger.info("%s", _progress_line(name, done, total, rate))
            last, last_done = now, done


def _progress_line(name: str, done: int, total: int, rate: float) -> str:
    """For example ``step 120/1000 (12 %), 2.50/s, 5.9 min left``."""
    minutes = (total - done) / rate / 60
    percent = 100 * done // max(total, 1)
    return f"{name} {done}/{total} ({percent} %), {rate:.3g}/s, {minutes:.1f} min left"
