"""The process's memory: what a step frees is kept for the next one.

glibc gives every large tensor back to the kernel, which then has to fill new pages with zeros for
the next one: hundreds of thousands of page faults a step.
"""

import ctypes
import re
import resource
import sys
from pathlib import Path

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4  # of mallopt(3)

LARGE = 2**20  # bytes


def keep_freed_memory(large: bool = True) -> None:
    """For the rest of this process; where the C library is not glibc, nothing happens.

    Args:
        large: keep what large tensors took, too. Where their sizes change all the time, the next
            one does not fit into what the last one left, and memory grows step by step.
    """
    if libc := glibc():
        if large:
            libc.mallopt(TRIM_THRESHOLD, 2**31 - 1)
            libc.mallopt(MMAP_MAX, 0)
        else:
            libc.mallopt(MMAP_THRESHOLD, LARGE)


def give_back_freed_memory() -> None:
    """Once: where something that stays has come to lie between what was freed, too."""
    if libc := glibc():
        libc.malloc_trim(0)


def peak_memory() -> int:
    """The most that this process ever held, in bytes.

    On Linux the kernel's own count for the program that runs; getrusage(2) goes on counting from
    the program that started this one, a notebook with gigabytes in it perhaps.
    """
    status = Path("/proc/self/status")
    if status.exists() and (found := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())):
        return 1024 * int(found[1])
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def glibc() -> ctypes.CDLL | None:
    """The C library, where it is the one that these calls are of."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "gnu_get_libc_version"):
        return libc
    return None
