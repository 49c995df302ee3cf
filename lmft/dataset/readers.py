"""Rows of the file formats that people keep text in, compressed or not."""

import csv
import gzip
import json
import lzma
import shutil
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from lmft.config.schema import TextErrors
from lmft.dataset.decoding import UNKNOWN, as_text, read_lines, read_texts
from lmft.errors import UserError


def _open_zstd(path: Path) -> Any:
    import pyarrow  # zstandard's own reader takes a file that was cut off for a whole one

    return pyarrow.input_stream(str(path), compression="zstd")


OPENERS: dict[str, Callable[[Path], Any]] = {
    ".gz": lambda path: gzip.open(path, "rb"),
    ".xz": lambda path: lzma.open(path, "rb"),
    ".zst": _open_zstd,
}


def format_of(path: Path) -> str:
    """The suffix that tells the format: `.txt` for `notes.txt.gz`."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in OPENERS:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


@dataclass(frozen=True)
class TextFile:
    """A file, and how it is to be read."""

    path: Path
    text_column: str  # of records
    errors: TextErrors

    def rows(self) -> Iterator[str]:
        """Its lines (ends kept), or the texts of its records.

        Raises:
            UserError: the file is broken, is no text, or lacks the column.
        """
        opener = OPENERS.get(self.path.suffix.lower())
        with readable(self.path), opener(self.path) if opener else self.path.open("rb") as file:
            yield from READERS[format_of(self.path)](file, self)

    def column(self, record: Any, number: int) -> str:
        """The text of the record of that number (from 1); a null is an empty one."""
        if not isinstance(record, dict):
            raise UserError(
                f"{self.path} has {type(record).__name__} as record {number}, which has no "
                f"dataset.text_column; write it as {{{self.text_column!r}: ...}}."
            )
        if self.text_column not in record:
            self.check_column(record)
        return self.text(record[self.text_column], number)

    def check_column(self, names: Iterable[str]) -> None:
        """Refuse records that have only other columns."""
        if self.text_column not in names:
            raise UserError(
                f"dataset.text_column is {self.text_column!r}, but {self.path} has "
                f"{', '.join(map(str, names)) or 'none'}; set dataset.text_column to one of them."
            )

    def text(self, value: Any, number: int) -> str:
        """What the record of that number (from 1) has in the column, as text."""
        if value is None:
            return ""
        if not isinstance(value, str):
            raise UserError(
                f"dataset.text_column is {self.text_column!r}, but {self.path} holds "
                f"{type(value).__name__} there, not text; choose another column."
            )
        if "\0" in value and self.errors is TextErrors.strict:
            raise self.refusal(number, "a NUL")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            if self.errors is TextErrors.strict:
                raise self.refusal(number, f"half a character ({value[error.start]!a})") from error
            value = value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return as_text(value, self.path)

    def refusal(self, number: int, what: str) -> UserError:
        """The record of that number (from 1) has something in it that is no text."""
        return UserError(
            f"{self.path} has {what} in record {number}, which is no text; mend it, or set "
            f"dataset.errors=replace to read {UNKNOWN} there."
        )


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Inside, `path` is read.

    Raises:
        UserError: it can't be.
    """
    try:
        yield
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        words = getattr(error, "strerror", None) or str(error) or type(error).__name__
        reason = words.splitlines()[0].rstrip(".")
        raise UserError(f"{path} cannot be read ({reason}); fetch it again.") from error


def _read_text(file: IO[bytes], source: TextFile) -> Iterator[str]:
    return read_lines(file, source.path, source.errors)


def _read_jsonl(file: IO[bytes], source: TextFile) -> Iterator[str]:
    for number, line in enumerate(_read_text(file, source), start=1):
        if line.strip():
            yield source.column(_parsed(line, source.path, number), number)


def _read_json(file: IO[bytes], source: TextFile) -> Iterator[str]:
    text = "".join(read_texts(file, source.path, source.errors))
    records = _parsed(text, source.path)
    if not isinstance(records, list):
        raise UserError(f"{source.path} holds no list of records; one record a line is .jsonl.")
    for number, record in enumerate(records, start=1):
        yield source.column(record, number)


def _read_csv(file: IO[bytes], source: TextFile) -> Iterator[str]:
    csv.field_size_limit(sys.maxsize)
    table = csv.DictReader(_read_text(file, source))
    try:
        for number, record in enumerate(table, start=1):
            yield source.column(record, number)
    except csv.Error as error:
        reason = str(error).partition(" - ")[0]
        raise UserError(
            f"{source.path}, line {table.line_num + 1} is not CSV ({reason}); mend or remove it."
        ) from error


def _read_parquet(file: IO[bytes], source: TextFile) -> Iterator[str]:
    import pyarrow
    import pyarrow.parquet

    with tempfile.TemporaryFile() as unpacked:
        if source.path.suffix.lower() in OPENERS:  # parquet is read here and there
            shutil.copyfileobj(file, unpacked)
            file = unpacked
        try:
            table = pyarrow.parquet.ParquetFile(file)
            source.check_column(table.schema_arrow.names)
            first = 1
            for page in table.iter_batches(columns=[source.text_column]):
                for number, text in enumerate(_texts(page.column(0), source, first), first):
                    yield source.text(text, number)
                first += page.num_rows
        except pyarrow.ArrowException as error:
            reason = str(error).splitlines()[0].rstrip(".")
            raise UserError(
                f"{source.path} is not a whole parquet file ({reason}); fetch it again."
            ) from error


def _texts(column: Any, source: TextFile, first: int) -> list[Any]:
    """The values of a column of records, whose first is number `first`; they may be no UTF-8."""
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        import pyarrow

        texts: list[str | None] = []
        for number, text in enumerate(column.cast(pyarrow.large_binary()).to_pylist(), first):
            try:
                texts.append(None if text is None else text.decode(errors=source.errors.value))
            except UnicodeDecodeError as error:
                byte = f"a byte that is not UTF-8 ({text[error.start]:#04x})"
                raise source.refusal(number, byte) from error
        return texts


def _parsed(text: str, path: Path, line: int | None = None) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # also a number of too many digits
        where = f"{path}" if line is None else f"{path}, line {line}"
        raise UserError(f"{where} is not JSON ({error}); mend or remove it.") from error


READERS: dict[str, Callable[[IO[bytes], TextFile], Iterator[str]]] = {
    ".txt": _read_text,
    ".md": _read_text,
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
