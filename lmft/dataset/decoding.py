"""Text from bytes: UTF-8, checked as it is read; without a BOM, and with lines that end in LF."""

import codecs
import io
import logging
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import IO

from lmft.config.schema import TextErrors
from lmft.errors import UserError

logger = logging.getLogger(__name__)


CHUNK = 1 << 20  # bytes read at once

UNKNOWN = "\N{REPLACEMENT CHARACTER}"


class Decoder:
    """Makes text of the chunks of one file, in their order."""

    def __init__(self, path: Path, errors: TextErrors):
        self._path, self._strict = path, errors is TextErrors.strict
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")(errors.value)
        self._read = 0  # bytes
        self._return = ""  # "\r" at the end of a chunk: the next one may begin with "\n"

    def decode(self, chunk: bytes, final: bool = False) -> str:
        """The text of the next chunk.

        Raises:
            UserError: there is a byte in it that is no text; with its place.
        """
        nul = chunk.find(0) if self._strict else -1
        text = self._return + self._decode(chunk if nul < 0 else chunk[:nul], final)
        if nul >= 0:
            raise UserError(
                f"{self._path} has a NUL at byte {self._read}, which is no text; remove it, or set "
                f"dataset.errors=replace to read {UNKNOWN} there."
            )
        self._return = "\r" if text.endswith("\r") and not final else ""
        return as_text(text.removesuffix(self._return), self._path)

    def _decode(self, chunk: bytes, final: bool) -> str:
        self._read += len(chunk)
        try:
            return self._decoder.decode(chunk, final)
        except UnicodeDecodeError as error:
            place = self._read - len(error.object) + error.start
            raise UserError(
                f"{self._path} is not UTF-8: byte {place} is {error.object[error.start]:#04x}; "
                f"convert the file with iconv, or set dataset.errors=replace to read {UNKNOWN} "
                "there."
            ) from error


def as_text(text: str, path: Path) -> str:
    """The same text of the file `path`, its lines ended by LF, and nothing in it for NUL."""
    if "\r\n" in text:
        tell_of_returns(path.parent)
        text = text.replace("\r\n", "\n")
    return text.replace("\0", UNKNOWN)


@cache
def tell_of_returns(folder: Path) -> None:
    """Say so once."""
    logger.warning("Lines in %s end in CRLF, which is read as LF.", folder)


def read_texts(file: IO[bytes], path: Path, errors: TextErrors) -> Iterator[str]:
    """The text of a file in chunks, as they come.

    Raises:
        UserError: it is none.
    """
    decoder = Decoder(path, errors)
    while chunk := file.read(CHUNK):
        yield decoder.decode(chunk)
    yield decoder.decode(b"", final=True)


def read_lines(file: IO[bytes], path: Path, errors: TextErrors) -> Iterator[str]:
    """The lines of a file, ends kept; nothing but LF ends one.

    Raises:
        UserError: it is no text.
    """
    begun: list[str] = []  # parts of a line whose end is still to come
    for text in read_texts(file, path, errors):
        first, end = text.find("\n") + 1, text.rfind("\n") + 1
        if end:
            yield "".join([*begun, text[:first]])
            yield from io.StringIO(text[first:end], newline="\n")
            begun = []
        begun.append(text[end:])
    if last := "".join(begun):
        yield last
