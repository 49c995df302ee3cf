"""The folders that runs write to: free space, kind of file system, locks."""

import shutil
from pathlib import Path

import psutil

from lmft.analysis.doctor.findings import Fact, Finding, Found, Kind
from lmft.errors import unwritable_path_error
from lmft.output.terminal import readable_size
from lmft.storage.lock import has_locks

LITTLE = 2e9  # bytes of free disk space
NETWORK = ("nfs", "cifs", "smb", "9p", "fuse.sshfs", "lustre", "gpfs", "beegfs", "ceph", "afs")


def describe_place(name: str, path: Path) -> Found:
    """Yield what a run would find at `path`, a folder that the knob `name` names.

    It may not exist yet.
    """
    path = path.expanduser().absolute()
    there = next(parent for parent in (path, *path.parents) if parent.exists())
    if not there.is_dir():
        yield Finding(Kind.missing, f"{name} leads to {there}, which is a file; choose another.")
        return
    free, kind = shutil.disk_usage(there).free, file_system(there)
    yield Fact(name, f"{path}, {readable_size(free)} free{f' ({kind})' if kind else ''}")
    try:
        can_lock = has_locks(there)
    except OSError as error:
        error.filename = None  # a temporary one
        yield Finding(Kind.missing, str(unwritable_path_error(name, error, path)))
        return
    if free < LITTLE:
        what = f"Only {readable_size(free)} are free at {name}={path}"
        yield Finding(Kind.missing, f"{what}; lmft clean removes unfinished runs and caches.")
    if not can_lock:
        what = f"{name}={path} is on a file system without locks"
        yield Finding(Kind.note, f"{what}; start no run there on two machines at once.")


def file_system(path: Path) -> str:
    """Return the kind of file system at `path`; empty if it is not known."""
    mounts = {mount.mountpoint: mount.fstype for mount in psutil.disk_partitions(all=True)}
    path = path.resolve()
    return next((mounts[str(p)] for p in (path, *path.parents) if str(p) in mounts), "")


def check_database(path: Path) -> Found:
    """Yield what is wrong with a place for an SQLite store."""
    there = next(parent for parent in path.parents if parent.exists())
    kind = file_system(there)
    if kind.startswith(NETWORK):
        what = f"The MLflow store {path} is on a network file system ({kind}), where SQLite is slow"
        yield Finding(Kind.slow, f"{what} and may break; set tracker.uri to a local file.")
