"""A progress bar for a terminal, lines for a log."""

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
    """Yields ``items``, and tells how far along they are and how long they will take.

    On a terminal this is a bar. Elsewhere (a log file, a pod) it is one INFO log line
    every ``interval_seconds`` and one at the end.

    Args:
        items: what to go through.
        total: their number, those already done by an earlier run included.
        initial: number done by an earlier run.
        name: what one item is called.
        is_writer: False says nothing, for all processes but one.
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
