"""Standard streams that cannot fail: what can't be written is dropped, not raised."""

import errno
import io
import logging
import os
import select
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

logger = logging.getLogger(__name__)

READER_GONE = {errno.EPIPE, errno.EIO, errno.EBADF}  # a closed pipe, terminal or descriptor


class UnfailingStream(io.TextIOWrapper):
    """A text stream to an `UnfailingFile`."""


class UnfailingFile(io.FileIO):
    """A file descriptor open for writing, which drops what it does not take."""

    def __init__(self, descriptor: int):
        super().__init__(descriptor, "w", closefd=False)
        self._warned = False

    def write(self, data: "ReadableBuffer", /) -> int:
        """Write `data`; return the number of bytes written or dropped."""
        try:
            while (written := super().write(data)) is None:
                select.select([], [self], [])  # another program made the terminal non-blocking
            return written
        except OSError as error:
            self._warn(error)
            return memoryview(data).nbytes

    def _warn(self, error: OSError) -> None:
        """Warn once on stderr that stdout is lost, unless its reader has left on purpose."""
        if self._warned or error.errno in READER_GONE or self.fileno() == 2:
            return
        self._warned = True
        logger.warning("stdout can't be written to (%s); its text is lost.", error.strerror)


def open_closed_descriptors() -> None:
    """Open /dev/null in place of standard streams that are closed.

    Else the next file to be opened would take the number of one, and what libraries print.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
            os.set_inheritable(opened, True)


def make_streams_unfailing() -> None:
    """Replace `sys.stdout` and `sys.stderr` by streams that never raise, if they are files."""
    sys.stdin = sys.stdin or open(os.devnull)  # noqa: SIM115  # None: closed at the start
    sys.stdout, sys.stderr = _unfailing(sys.stdout), _unfailing(sys.stderr)


def _unfailing(stream: TextIO | None) -> TextIO:
    """Return a stream to the same file that drops or replaces what can't be written."""
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if not isinstance(stream, io.TextIOWrapper) or isinstance(stream, UnfailingStream):
        return stream  # of a notebook or a test, or done already
    try:
        file = UnfailingFile(stream.fileno())
    except (OSError, ValueError):  # it is in memory, or closed
        return stream
    with suppress(OSError):
        stream.flush()
    return UnfailingStream(
        io.BufferedWriter(file),
        encoding=stream.encoding,
        errors="backslashreplace" if stream.errors == "backslashreplace" else "replace",
        # PYTHONUNBUFFERED: what is written through has still to pass the buffer of the file.
        line_buffering=stream.line_buffering or stream.write_through,
        write_through=stream.write_through,
    )
