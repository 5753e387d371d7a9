"""Settings of the C allocator: memory that neither grows nor is zeroed at each step."""

import contextlib
import ctypes
import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
M_MMAP_MAX, M_ARENA_MAX = -4, -8
LARGE = 1 << 20
"""Size in bytes from which a freed buffer is returned to the system."""
MORE = 1 << 26
"""Least growth of the heap in bytes, where it holds large buffers as well."""


def use_one_heap() -> None:
    """Makes the C library use one heap, and maps large buffers outside of it.

    glibc gives each new thread a separate heap, and Orbax starts new threads for every
    save. The little that stays allocated in each heap prevents the rest from being
    returned, so that resident memory grows by about a megabyte a save.
    """
    _set({M_ARENA_MAX: 1, M_MMAP_THRESHOLD: LARGE})


def retain_freed_pages() -> None:
    """Makes the C library retain freed pages, on machines with no device but the CPU.

    XLA allocates all temporaries of a program at every run. Pages that are returned to
    the system in between are zeroed again, which took a quarter of the demo's training
    step. `release_free_pages` returns the unused ones after a save.

    Must be called at the start of a process: a thread stays with its first heap, and
    only the main heap can grow as large.
    """
    other = any(map(importlib.util.find_spec, ("libtpu", "jax_plugins")))
    if os.environ.get("JAX_PLATFORMS", "" if other else "cpu") != "cpu":
        return
    never = -1
    _set({M_ARENA_MAX: 1, M_MMAP_MAX: 0, M_TRIM_THRESHOLD: never, M_TOP_PAD: MORE})


def _set(settings: Mapping[int, int]) -> None:
    """Sets parameters of glibc's allocator; does nothing with other C libraries."""
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        for parameter, value in settings.items():
            libc.mallopt(parameter, value)


def release_free_pages() -> None:
    """Returns free pages to the system; slow, so for background threads."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def available() -> int | None:
    """Bytes of memory that the host has available; None where it is unknown."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "MemAvailable":
                return int(value.split()[0]) * 1024
    return None
