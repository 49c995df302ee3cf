"""Open files that may be compressed, and say in a sentence why one can't be read."""

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from lmft.errors import UserError


def _open_zstd(path: Path) -> Any:
    import pyarrow  # the reader of zstandard does not report a truncated file

    return pyarrow.input_stream(str(path), compression="zstd")


OPENERS: dict[str, Callable[[Path], Any]] = {
    ".gz": lambda path: gzip.open(path, "rb"),
    ".xz": lambda path: lzma.open(path, "rb"),
    ".zst": _open_zstd,
    ".bz2": lambda path: bz2.open(path, "rb"),
}


def is_compressed(path: Path) -> bool:
    """Check whether the last suffix is that of a compression."""
    return path.suffix.lower() in OPENERS


@contextmanager
def open_bytes(path: Path) -> Iterator[IO[bytes]]:
    """Open a file to read its decompressed bytes.

    Raises:
        UserError: see `readable`.
    """
    opener = OPENERS.get(path.suffix.lower())
    with readable(path), opener(path) if opener else path.open("rb") as file:
        yield file


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Explain in one sentence why the block could not read `path`.

    Raises:
        UserError: the file is missing, damaged or truncated, or must not be read.
    """
    try:
        yield
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        message = getattr(error, "strerror", None) or str(error) or type(error).__name__
        reason = message.splitlines()[0].rstrip(".")
        raise UserError(f"{path} cannot be read ({reason}); fetch it again.") from error
