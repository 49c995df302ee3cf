"""Settings of the C allocator, and the peak memory of this process.

By default glibc returns the memory of every large tensor to the kernel, which has to zero new pages
for the next tensor: hundreds of thousands of page faults a step.
"""

import ctypes
import re
import resource
import sys
from pathlib import Path

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4  # of mallopt(3)
LARGE = 2**20  # bytes


def keep_freed_memory(large: bool = True) -> None:
    """Let glibc keep freed memory for the rest of this process; other C libraries are unchanged.

    Args:
        large: keep the memory of large tensors too. If their sizes vary, freed memory fragments
            and grows step by step; then pass False.
    """
    if libc := glibc():
        if large:
            libc.mallopt(TRIM_THRESHOLD, 2**31 - 1)
            libc.mallopt(MMAP_MAX, 0)
        else:
            libc.mallopt(MMAP_THRESHOLD, LARGE)


def release_freed_memory() -> None:
    """Return free pages to the kernel once, also those between allocations in use."""
    if libc := glibc():
        libc.malloc_trim(0)


def peak_memory() -> int:
    """Return the peak resident memory of this process, in bytes.

    On Linux read VmHWM: ru_maxrss of getrusage(2) starts from the peak of the program that started
    this one, such as a notebook that holds gigabytes.
    """
    status = Path("/proc/self/status")
    if status.exists() and (match := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())):
        return 1024 * int(match[1])
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def glibc() -> ctypes.CDLL | None:
    """Return the C library if it is glibc, else None."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "gnu_get_libc_version"):
        return libc
    return None
