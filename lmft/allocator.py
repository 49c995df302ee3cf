"""Memory that a step frees is kept for the next one.

glibc gives every large tensor back to the kernel, which then has to fill new pages with zeros for
the next one: hundreds of thousands of page faults a step.
"""

import ctypes
import sys

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


def glibc() -> ctypes.CDLL | None:
    """The C library, where it is the one that these calls are of."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "gnu_get_libc_version"):
        return libc
    return None
