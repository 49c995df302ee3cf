"""The folders that runs write to: free space, kind of file system, locks."""

import fcntl
import os
import shutil
from pathlib import Path
from tempfile import TemporaryFile

import psutil

from lmft.analysis.doctor.findings import Fact, Finding, Found, Kind
from lmft.output.terminal import readable_size

LITTLE = 2e9  # bytes of free disk space
NETWORK = ("nfs", "cifs", "smb", "9p", "fuse.sshfs", "lustre", "gpfs", "beegfs", "ceph", "afs")


def describe_place(name: str, path: Path, needs_locks: bool = True) -> Found:
    """Yield what a run would meet in a folder that may not exist yet.

    Args:
        name: the knob that names it.
        path: the folder.
        needs_locks: whether processes lock files there.
    """
    path = path.expanduser().absolute()
    there = next(parent for parent in (path, *path.parents) if parent.exists())
    if not there.is_dir():
        yield Finding(Kind.missing, f"{name} leads to {there}, which is a file; choose another.")
        return
    free, kind = shutil.disk_usage(there).free, file_system(there)
    yield Fact(name, f"{path}, {readable_size(free)} free{f' ({kind})' if kind else ''}")
    if not os.access(there, os.W_OK | os.X_OK):
        what = f"{name} leads to {path}, which can't be written to"
        yield Finding(Kind.missing, f"{what}; fix its permissions, or choose another {name}.")
        return
    if free < LITTLE:
        what = f"Only {readable_size(free)} are free at {name}={path}"
        yield Finding(Kind.slow, f"{what}; lmft clean removes unfinished runs and caches.")
    if needs_locks and not has_locks(there):
        what = f"{name}={path} is on a file system without locks"
        yield Finding(Kind.slow, f"{what}; start no run there twice at once, or choose another.")


def file_system(path: Path) -> str:
    """Return the kind of file system at `path`; empty if it is not known."""
    mounts = {mount.mountpoint: mount.fstype for mount in psutil.disk_partitions(all=True)}
    path = path.resolve()
    return next((mounts[str(p)] for p in (path, *path.parents) if str(p) in mounts), "")


def has_locks(folder: Path) -> bool:
    """Return whether files in a folder can be locked; none stays there."""
    try:
        with TemporaryFile(dir=folder) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except OSError:
        return False


def check_database(path: Path) -> Found:
    """Yield what is wrong with a place for an SQLite store."""
    there = next(parent for parent in path.parents if parent.exists())
    kind = file_system(there)
    if kind.startswith(NETWORK):
        what = f"The MLflow store {path} is on a network file system ({kind}), where SQLite is slow"
        yield Finding(Kind.slow, f"{what} and may break; set tracker.uri to a local file.")
