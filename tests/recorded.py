"""The command line in a separate process, with a record of what it did.

    RECORD=FILE python tests/recorded.py train --config ...

FILE, if it has a name, gets, as JSON, the numbers of the samples of each step that
this process loaded, and how often JAX asked its compilation cache for a program and
found it. With FAIL_AT=N the N-th batch of this process is an error; with
HANG_AT=N it never comes.
"""

import collections
import json
import os
import pathlib
import threading

import jax

from snapvideo_jax import __main__ as cli
from snapvideo_jax import train

EVENTS = "/jax/compilation_cache/"


class Hanging:
    """An iterator whose N-th item never comes."""

    def __init__(self, iterator, hang_at):
        self._iterator, self._left = iterator, hang_at
        self.get_state, self.set_state = iterator.get_state, iterator.set_state
        self.close = iterator.close

    def __next__(self):
        self._left -= 1
        if not self._left:
            threading.Event().wait()
        return next(self._iterator)


def hang(hang_at):
    split_dataset = train.split_dataset

    class Dataset:
        def __init__(self, *arguments, **more):
            self._dataset = split_dataset(*arguments, **more)

        def __iter__(self):
            return Hanging(iter(self._dataset), hang_at)

    train.split_dataset = Dataset


def main():
    samples, events = [], collections.Counter()
    jax.monitoring.register_event_listener(lambda name, **_: events.update([name]))
    put_batch, fail_at = train.put_batch, int(os.environ.get("FAIL_AT", 0))

    def recording(batch, sharding):
        samples.append(batch["sample"].tolist())
        if len(samples) == fail_at:
            raise ValueError("this batch was made to fail")
        return put_batch(batch, sharding)

    train.put_batch = recording
    if hang_at := int(os.environ.get("HANG_AT", 0)):
        hang(hang_at)
    cli.main()
    record = {
        "samples": samples,
        "asked": events[EVENTS + "compile_requests_use_cache"],
        "found": events[EVENTS + "cache_hits"],
    }
    if os.environ["RECORD"]:
        pathlib.Path(os.environ["RECORD"]).write_text(json.dumps(record))


if __name__ == "__main__":
    main()
