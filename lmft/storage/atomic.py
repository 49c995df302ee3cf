"""Atomic writes: a file or folder is complete or absent, also after a power failure.

A full disk raises `Fault` and leaves no partial file behind.
"""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lmft.errors import disk_full_as_fault


def read_json(path: Path) -> dict[str, Any]:
    """Return the content of the JSON file `path`; an empty dict if there is no such file."""
    return json.loads(path.read_text()) if path.exists() else {}


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON to the file `path`."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write `text` to the file `path`."""
    with new_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield a temporary file to write; rename it to `path` when the block ends without an error.

    Raises:
        Fault: the disk is full.
    """
    temporary = path.with_name(f".{path.name}-new")
    try:
        with disk_full_as_fault(path):
            yield temporary
            sync(temporary)
            temporary.rename(path)
            sync(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder to fill; rename it to `path` when the block ends without an error.

    Replaces what was at `path`.

    Raises:
        Fault: the disk is full.
    """
    temporary, old = path.with_name(f".{path.name}-new"), path.with_name(f".{path.name}-old")
    for leftover in (temporary, old):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        with disk_full_as_fault(path):
            temporary.mkdir(parents=True)
            yield temporary
            for file in temporary.iterdir():
                sync(file)
            sync(temporary)
            if path.exists():
                path.rename(old)
            temporary.rename(path)
            sync(path.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)


def sync(path: Path) -> None:
    """Flush a file's content, or a folder's entries, to the disk.

    Mounted drives that can't flush a folder keep its entries by themselves.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP) or not path.is_dir():
            raise
    finally:
        os.close(descriptor)
