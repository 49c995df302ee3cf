"""Locks: one process at a time per run folder, also on a drive whose file system has no locks."""

import errno
import hashlib
import json
import logging
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from lmft.errors import RunLocked, disk_full_as_fault, writable

logger = logging.getLogger(__name__)

NO_LOCKS = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK}  # of Lustre, mounted drives, NFS


def file_lock(path: Path) -> FileLock:
    """Return the lock `path`; where its file system has none, one in this machine's own folder.

    A file whose mere existence is the lock would outlive a machine that is lost.
    """
    if has_locks(path.parent):
        return FileLock(path)
    path.touch()  # what `is_locked` looks for
    name = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / "lmft-locks"
    folder.mkdir(exist_ok=True)
    with suppress(PermissionError):  # another user's, who has let all users write
        folder.chmod(0o1777)
    return FileLock(folder / f"{name}.lock", mode=0o666)


def has_locks(folder: Path) -> bool:
    """Return whether files in `folder` can be locked; none stays there.

    Raises:
        OSError: no file can be made there.
    """
    try:
        import fcntl
    except ImportError:  # Windows, where all can
        return True
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in NO_LOCKS:
                return False
            raise
    return True


@contextmanager
def run_lock(path: Path, wait: bool = False) -> Iterator[None]:
    """Hold the lock of the run folder `path` while the block runs.

    The operating system releases the lock when its process ends, however it ends, so no dead
    process blocks a run. Between hosts this needs a file system that shares locks; without locks,
    processes of this machine are kept apart.

    Args:
        path: the folder; it need not exist yet.
        wait: wait for another process to release the lock instead of raising.

    Raises:
        RunLocked: another process holds the lock.
    """
    lock_path = _lock_path(path)
    with writable("run_root", lock_path.parent):
        lock_path.parent.mkdir(parents=True, exist_ok=True)
    lock, owner = file_lock(lock_path), lock_path.with_suffix(".json")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if not wait:
            raise RunLocked(
                f"{path.name} is already running {_describe(owner)}; wait for it, or stop it first."
            ) from None
        logger.warning("%s is already running %s; waiting for it.", path.name, _describe(owner))
        lock.acquire()
    try:
        with disk_full_as_fault(owner):
            owner.write_text(json.dumps({"host": socket.gethostname(), "pid": os.getpid()}))
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def is_locked(path: Path) -> bool:
    """Check whether a process holds the lock of the run folder `path`."""
    lock_path = _lock_path(path)
    if not lock_path.exists():
        return False
    try:
        with file_lock(lock_path).acquire(timeout=0):
            return False
    except Timeout:
        return True


def _lock_path(path: Path) -> Path:
    # Outside the run folder, so that the folder can be moved while the lock is held.
    return path.parent / ".locks" / f"{path.name}.lock"


def _describe(owner: Path) -> str:
    try:
        process = json.loads(owner.read_text())
    except (OSError, ValueError):  # the owner is just starting or ending
        return "in another process"
    return f"in process {process['pid']} on {process['host']}"
