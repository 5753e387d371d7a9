"""Real processes of the command line, alone or two together."""

import os
import pathlib
import socket
import subprocess
import sys

import xla_flags

import snapvideo_jax

HERE = pathlib.Path(__file__).parent
PACKAGE = str(pathlib.Path(snapvideo_jax.__file__).parents[1])
"""Where the package that is tested lies: in a checkout, or installed."""
PATIENCE_SECONDS = 1200
"""The longest wait of a test for a process; a quiet machine needs a small part."""


def free_port():
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


def environment(devices, **more):
    """An environment without settings of other processes or a compilation cache."""
    ours = ("SNAPVIDEO_PROCESS_COUNT", "JAX_COMPILATION_CACHE_DIR")
    inherited = {name: value for name, value in os.environ.items() if name not in ours}
    flags = f"{xla_flags.devices(devices)} {xla_flags.FAST_COMPILE}"
    return inherited | {"XLA_FLAGS": flags, "PYTHONPATH": PACKAGE, **more}


def start(arguments, devices, record="", **more):
    """A process of the command line, with a record of what it does."""
    return subprocess.Popen(
        [sys.executable, str(HERE / "recorded.py"), *arguments],
        env=environment(devices, RECORD=str(record), **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(processes):
    """Exit code, output and errors of each process."""
    try:
        outputs = [each.communicate(timeout=PATIENCE_SECONDS) for each in processes]
    finally:
        for each in processes:
            with each:  # waits, and closes the pipes
                each.kill()
    codes = [each.returncode for each in processes]
    return [(code, *texts) for code, texts in zip(codes, outputs, strict=True)]


def together(arguments, records=("", ""), more=({}, {})):
    """What becomes of two processes that run the same command."""
    where = dict(SNAPVIDEO_COORDINATOR=f"localhost:{free_port()}")
    where["SNAPVIDEO_PROCESS_COUNT"] = "2"
    return end(
        [
            start(arguments, 4, record, SNAPVIDEO_PROCESS_INDEX=str(i), **where, **own)
            for i, (record, own) in enumerate(zip(records, more, strict=True))
        ]
    )
