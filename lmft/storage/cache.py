"""Cached folders: built once, verified on each use, rebuilt if damaged."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import Timeout

from lmft.errors import disk_full_as_fault, writable
from lmft.storage.atomic import new_folder
from lmft.storage.checksums import is_intact, write_checksums
from lmft.storage.lock import file_lock

logger = logging.getLogger(__name__)

POLL = 0.5  # seconds between two calls of `while_waiting`


def build_once(
    folder: Path, fill: Callable[[Path], None], while_waiting: Callable[[], None] = lambda: None
) -> None:
    """Build `folder` with `fill` unless it exists and matches its checksums.

    If several processes need the same folder at once, one builds it while the others wait.

    Args:
        folder: where the cached files are.
        fill: writes the files into the empty folder that it is given.
        while_waiting: called twice a second while another process builds; may raise.

    Raises:
        Fault: the disk is full.
    """
    if is_intact(folder):
        return
    with disk_full_as_fault(folder):
        with writable("cache_root", folder.parent):
            folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.with_suffix(".lock"), while_waiting):
            if is_intact(folder):
                return
            if folder.exists():
                logger.warning("%s failed its checksum; rebuilding.", folder)
            with new_folder(folder) as temporary:
                fill(temporary)
                write_checksums(temporary)


@contextmanager
def _locked(path: Path, while_waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the lock `path`, which the operating system releases if its process is killed."""
    lock = file_lock(path)
    while not lock.is_locked:
        try:
            lock.acquire(timeout=POLL)
        except Timeout:
            while_waiting()
    try:
        yield
    finally:
        lock.release()
