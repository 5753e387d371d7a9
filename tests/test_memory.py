"""Settings of the C allocator for freed memory."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, resource
from snapvideo_jax.parallel import host_memory

host_memory.retain_freed_pages()
libc = ctypes.CDLL("libc.so.6")
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]

def use(size):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    buffer = libc.malloc(size)
    libc.memset(buffer, 1, size)
    libc.free(buffer)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

use(100 << 20)
print(use(100 << 20))
"""


def faults(platforms: str) -> int:
    """Pages that the second use of 100 MB has to be given by the system."""
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={"JAX_PLATFORMS": platforms, "PYTHONPATH": ":".join(sys.path)},
        check=True,
        capture_output=True,
        text=True,
    )
    return int(found.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_pages_stay_where_programs_run_on_the_cpu():
    assert faults("cpu") < 10 < faults("tpu")
