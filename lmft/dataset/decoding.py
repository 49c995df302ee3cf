"""Decode the bytes of files: UTF-8 is checked, a BOM is dropped and CRLF becomes LF."""

import codecs
import io
import logging
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import IO

from lmft.config.dataset_knobs import TextErrors
from lmft.errors import UserError

logger = logging.getLogger(__name__)


CHUNK = 1 << 20  # bytes read at once
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class Decoder:
    """An incremental decoder of one file: call `decode` with its chunks in order."""

    def __init__(self, path: Path, errors: TextErrors):
        self._path, self._strict = path, errors is TextErrors.strict
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")(errors.value)
        self._read = 0  # bytes
        self._lines = 0  # line ends in them
        self._return = ""  # "\r" at the end of a chunk: the next may start with "\n"

    def decode(self, chunk: bytes, final: bool = False) -> str:
        """Return the text of the next chunk.

        Raises:
            UserError: a byte is not text and dataset.errors=strict; the message has its offset.
        """
        if self._read == 0 and self._strict and (encoding := wide_encoding(chunk)):
            raise UserError(
                f"{self._path} is in {encoding}, not UTF-8; convert it: iconv "
                f"-f {encoding.lower()} -t utf-8 {shlex.quote(self._path.name)} > NEW."
            )
        nul = chunk.find(0) if self._strict else -1
        text = self._return + self._decode(chunk if nul < 0 else chunk[:nul], final)
        if nul >= 0:
            raise UserError(
                f"{self._path} has a NUL at byte {self._read}, line {self._lines + 1}, which is "
                f"not text; remove it, or set dataset.errors=replace to read {REPLACEMENT} there."
            )
        self._return = "\r" if text.endswith("\r") and not final else ""
        return as_text(text.removesuffix(self._return), str(self._path))

    def _decode(self, chunk: bytes, final: bool) -> str:
        self._read += len(chunk)
        try:
            text = self._decoder.decode(chunk, final)
        except UnicodeDecodeError as error:
            offset = self._read - len(error.object) + error.start
            line = self._lines + error.object.count(b"\n", 0, error.start) + 1
            raise UserError(
                f"{self._path} is not UTF-8: byte {offset} is {error.object[error.start]:#04x}, "
                f"line {line}; convert the file (iconv -f latin1 -t utf-8, if it is Latin-1), or "
                f"set dataset.errors=replace to read {REPLACEMENT} there."
            ) from error
        self._lines += chunk.count(b"\n")
        return text


def wide_encoding(start: bytes) -> str | None:
    """Return UTF-16 or UTF-32 if a file that starts so is in it, as Windows writes some."""
    if start.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "UTF-32"
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "UTF-16"
    sample = start[:64]  # of mostly ASCII: every other byte is a NUL
    for name, zeros, others in (
        ("UTF-16LE", sample[1::2], sample[::2]),
        ("UTF-16BE", sample[::2], sample[1::2]),
    ):
        if len(zeros) > 3 and not any(zeros) and all(others):
            return name
    return None


def as_text(text: str, where: str) -> str:
    """Replace CRLF with LF and NUL with U+FFFD in the text of the file `where`."""
    if "\r\n" in text:
        warn_of_crlf(Path(where).parent)
        text = text.replace("\r\n", "\n")
    return text.replace("\0", REPLACEMENT)


@cache
def warn_of_crlf(folder: Path) -> None:
    """Warn once per folder."""
    logger.warning("Lines in %s end in CRLF, which is read as LF.", folder)


def read_texts(file: IO[bytes], path: Path, errors: TextErrors) -> Iterator[str]:
    """Yield the text of a file in chunks.

    Raises:
        UserError: a byte is not text and `errors` is strict.
    """
    decoder = Decoder(path, errors)
    while chunk := file.read(CHUNK):
        yield decoder.decode(chunk)
    yield decoder.decode(b"", final=True)


def read_lines(file: IO[bytes], path: Path, errors: TextErrors) -> Iterator[str]:
    """Yield the lines of a file with their line ends; only LF ends a line.

    Raises:
        UserError: a byte is not text and `errors` is strict.
    """
    incomplete: list[str] = []  # the parts of a line whose end was not read yet
    for text in read_texts(file, path, errors):
        first, end = text.find("\n") + 1, text.rfind("\n") + 1
        if end:
            yield "".join([*incomplete, text[:first]])
            yield from io.StringIO(text[first:end], newline="\n")
            incomplete = []
        incomplete.append(text[end:])
    if last := "".join(incomplete):
        yield last
