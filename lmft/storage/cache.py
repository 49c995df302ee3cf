"""Folders that are made once and kept: found damaged, they are made anew."""

import logging
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from lmft.errors import room_for, writable
from lmft.storage.atomic import new_folder
from lmft.storage.checksums import is_intact, write_checksums

logger = logging.getLogger(__name__)


def build_once(folder: Path, fill: Callable[[Path], None]) -> None:
    """See that `folder` is there, and as it was written; else let `fill` fill it.

    Of several processes that need the same one at once, one makes it while the others wait.

    Raises:
        Fault: there is no room for it.
    """
    if is_intact(folder):
        return
    with room_for(folder):
        with writable("cache_root", folder.parent):
            folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            if is_intact(folder):
                return
            if folder.exists():
                logger.warning("%s is not as it was written; it is made anew.", folder)
            with new_folder(folder) as place:
                fill(place)
                write_checksums(place)
