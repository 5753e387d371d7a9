"""Host memory that neither grows with every save nor is fetched anew at every step."""

import contextlib
import ctypes
import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
M_MMAP_MAX, M_ARENA_MAX = -4, -8
LARGE = 1 << 20
"""Bytes from which on a buffer is given back to the system once it is free."""
MORE = 1 << 26
"""Bytes that a heap grows by at least, where it holds large buffers too."""


def use_one_heap() -> None:
    """Makes the C library use one heap, and none of it for large buffers.

    glibc gives new threads heaps of their own, and Orbax starts new threads for every
    save. What little stays in use in each heap keeps the rest of it from being given
    back, so that resident memory grows by about a megabyte a save.
    """
    _tell({M_ARENA_MAX: 1, M_MMAP_THRESHOLD: LARGE})


def retain_freed_pages() -> None:
    """Makes the C library keep what programs free, where they can only run on the CPU.

    XLA asks for all temporaries of a program whenever it runs. Pages that go back to
    the system in between are zeroed again by it, which took a quarter of the demo's
    training step. `release_free_pages` returns what is free for good, after a save.

    Has to come at the start of a process: a thread keeps the heap that it began with,
    and only the first heap can be as large.
    """
    other = any(map(importlib.util.find_spec, ("libtpu", "jax_plugins")))
    if os.environ.get("JAX_PLATFORMS", "" if other else "cpu") != "cpu":
        return
    never = -1
    _tell({M_ARENA_MAX: 1, M_MMAP_MAX: 0, M_TRIM_THRESHOLD: never, M_TOP_PAD: MORE})


def _tell(settings: Mapping[int, int]) -> None:
    """Sets parameters of glibc's allocator; other C libraries are left as they are."""
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        for parameter, value in settings.items():
            libc.mallopt(parameter, value)


def release_free_pages() -> None:
    """Gives free pages back to the system, for a thread that is in no hurry."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def available() -> int | None:
    """Bytes that the host could still give; None where it is not told."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "MemAvailable":
                return int(value.split()[0]) * 1024
    return None
