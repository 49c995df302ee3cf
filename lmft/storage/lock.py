"""One process at a time in a run's folder."""

import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from lmft.errors import RunLocked, room_for, writable

logger = logging.getLogger(__name__)


@contextmanager
def run_lock(path: Path, wait: bool = False) -> Iterator[None]:
    """Inside, no other process works in the run's folder `path`.

    The operating system lets go of the lock when its process ends, however it ends; so it is taken
    over from dead ones, also across hosts where the file system shares locks.

    Args:
        path: the folder; it need not be there yet.
        wait: for another process to end, instead of refusing.

    Raises:
        Busy: another process holds it.
    """
    place = _place(path)
    with writable("run_root", place.parent):
        place.parent.mkdir(parents=True, exist_ok=True)
    lock, owner = FileLock(place), place.with_suffix(".json")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if not wait:
            raise RunLocked(
                f"{path.name} is at work already, {_holder(owner)}; wait for it, or stop it first."
            ) from None
        logger.warning("%s is at work already, %s; waiting for it.", path.name, _holder(owner))
        lock.acquire()
    try:
        with room_for(owner):
            owner.write_text(json.dumps({"host": socket.gethostname(), "pid": os.getpid()}))
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def is_locked(path: Path) -> bool:
    """Whether a process works in the run's folder `path`."""
    place = _place(path)
    if not place.exists():
        return False
    try:
        with FileLock(place, timeout=0):
            return False
    except Timeout:
        return True


def _place(path: Path) -> Path:
    """Beside the folders, not in them, so that they can be moved aside under the lock."""
    return path.parent / ".locks" / f"{path.name}.lock"


def _holder(owner: Path) -> str:
    try:
        found = json.loads(owner.read_text())
    except (OSError, ValueError):  # it has just begun, or is just ending
        return "in another process"
    return f"in process {found['pid']} on {found['host']}"
