"""Files and folders that are there whole or not at all, also after a loss of power.

Where there is no room for one, that is a Fault, and what was written of it is gone.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lmft.errors import room_for


def write_json(path: Path, value: Any) -> None:
    """Write `value` to the file `path`."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write `text` to the file `path`."""
    with new_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A file to be written inside; after that it stands at `path`, in place of what was there."""
    temporary = path.with_name(f".{path.name}-new")
    try:
        with room_for(path):
            yield temporary
            sync(temporary)
            temporary.rename(path)
            sync(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to be filled inside; after that it stands at `path`, in place of what was there."""
    temporary, old = path.with_name(f".{path.name}-new"), path.with_name(f".{path.name}-old")
    for rubbish in (temporary, old):
        shutil.rmtree(rubbish, ignore_errors=True)
    try:
        with room_for(path):
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
    """Let a file's content, or the names in a folder, survive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
