"""Host memory that does not grow with every save."""

import contextlib
import ctypes

M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8
LARGE = 1 << 20
"""Bytes from which on a buffer is given back to the system once it is free."""


def keep_flat() -> None:
    """Makes the C library use one heap, and none of it for large buffers.

    glibc gives new threads heaps of their own, and Orbax starts new threads for every
    save. What little stays in use in each heap keeps the rest of it from being given
    back, so that resident memory grows by about a megabyte a save. Other C libraries
    are left as they are.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(M_ARENA_MAX, 1)
        libc.mallopt(M_MMAP_THRESHOLD, LARGE)


def give_back() -> None:
    """Gives free pages back to the system, for a thread that is in no hurry."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
