"""Memory that a step frees is kept for the next one.

glibc gives every large tensor back to the kernel, which then has to fill new pages with zeros for
the next one: hundreds of thousands of page faults a step.
"""

import ctypes
import sys

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # of mallopt(3)


def keep_freed_memory() -> None:
    """For the rest of this process; where the C library is not glibc, nothing happens."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "gnu_get_libc_version"):
        libc.mallopt(TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(MMAP_MAX, 0)
