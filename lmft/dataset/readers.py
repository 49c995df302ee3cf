"""Read rows from text files: .txt .md .jsonl .json .csv .parquet, compressed or not."""

import csv
import gzip
import json
import lzma
import shutil
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from lmft.config.schema import TextErrors
from lmft.dataset.decoding import REPLACEMENT, as_text, read_lines, read_texts
from lmft.errors import UserError


def _open_zstd(path: Path) -> Any:
    import pyarrow  # the reader of zstandard does not report a truncated file

    return pyarrow.input_stream(str(path), compression="zstd")


CSV_ERRORS = {  # of Python's csv module, in words about the file
    "unexpected end of data": "a field that opens with a quote is not closed by the end",
    """',' expected after '"'""": "text follows the closing quote of a field",
}
OPENERS: dict[str, Callable[[Path], Any]] = {
    ".gz": lambda path: gzip.open(path, "rb"),
    ".xz": lambda path: lzma.open(path, "rb"),
    ".zst": _open_zstd,
}


def format_of(path: Path) -> str:
    """Return the suffix of the format, without compression: `.txt` for `notes.txt.gz`."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in OPENERS:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


@dataclass(frozen=True)
class TextFile:
    """A file and how to read it.

    Records are counted from 1; those of .csv and .jsonl by the line in which they start.
    """

    path: Path
    text_column: str  # of records, in formats other than .txt and .md
    errors: TextErrors

    def rows(self) -> Iterator[str]:
        """Yield the lines with their line ends, or the text of each record.

        Raises:
            UserError: the file is damaged, is not text, or lacks the column.
        """
        opener = OPENERS.get(self.path.suffix.lower())
        with readable(self.path), opener(self.path) if opener else self.path.open("rb") as file:
            yield from READERS[format_of(self.path)](file, self)

    def column(self, record: Any, number: int) -> str:
        """Return the text of record `number`."""
        if not isinstance(record, dict):
            raise UserError(
                f"{self.path} has {type(record).__name__} in {self.unit} {number}, not an object "
                f"with dataset.text_column; write it as {{{self.text_column!r}: ...}}."
            )
        names = record.names if isinstance(record, _RepeatingObject) else list(record)
        self.check_column(names, number)
        return self.text(record[self.text_column], number)

    def check_column(self, names: list[str], number: int | None = None) -> None:
        """Check that the column is among the `names` of the file, or of record `number`, once.

        Raises:
            UserError: it is not, or more than once.
        """
        count = names.count(self.text_column)
        where = "" if number is None else f" in {self.unit} {number}"
        if count == 0:
            raise UserError(
                f"dataset.text_column is {self.text_column!r}, but {self.path} has "
                f"{', '.join(names) or 'none'}{where}; set dataset.text_column to one of them."
            )
        if count > 1:
            raise UserError(
                f"dataset.text_column is {self.text_column!r}, but {self.path} has {count} columns "
                f"of that name{where}; rename or remove all but one of them."
            )

    @property
    def unit(self) -> str:
        """What is counted to say where a record is."""
        return "line" if format_of(self.path) in (".csv", ".jsonl") else "record"

    def text(self, value: Any, number: int) -> str:
        """Check the value of the column in record `number`; null becomes ""."""
        if value is None:
            return ""
        if not isinstance(value, str):
            raise UserError(
                f"dataset.text_column is {self.text_column!r}, but {self.path} holds "
                f"{type(value).__name__} there in {self.unit} {number}, not text; choose another "
                "column."
            )
        if "\0" in value and self.errors is TextErrors.strict:
            raise self.not_text_error(number, "a NUL")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            if self.errors is TextErrors.strict:
                code = f"half a character ({value[error.start]!a})"
                raise self.not_text_error(number, code) from error
            value = value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return as_text(value, self.path)

    def not_text_error(self, number: int, what: str) -> UserError:
        """Return the error that record `number` contains `what`."""
        return UserError(
            f"{self.path} has {what} in {self.unit} {number}, which is not text; fix it, or set "
            f"dataset.errors=replace to read {REPLACEMENT} there."
        )


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


def read_text(file: IO[bytes], source: TextFile) -> Iterator[str]:
    """Yield the lines of a file."""
    return read_lines(file, source.path, source.errors)


def _read_jsonl(file: IO[bytes], source: TextFile) -> Iterator[str]:
    for number, line in enumerate(read_text(file, source), start=1):
        if line.strip():
            yield source.column(parsed(line, source.path, number), number)


def _read_json(file: IO[bytes], source: TextFile) -> Iterator[str]:
    for number, record in enumerate(json_records(file, source), start=1):
        yield source.column(record, number)


def json_records(file: IO[bytes], source: TextFile) -> list[Any]:
    """Return the records of a .json file."""
    text = "".join(read_texts(file, source.path, source.errors))
    records = parsed(text, source.path)
    if not isinstance(records, list):
        raise UserError(
            f"{source.path} is not a list of records; rename it to .jsonl if it has one per line."
        )
    return records


def _read_csv(file: IO[bytes], source: TextFile) -> Iterator[str]:
    rows = csv_rows(file, source)
    _, names = next(rows, (0, None))
    if names is None:
        return
    source.check_column(names)
    column = names.index(source.text_column)
    for line, fields in rows:
        check_fields(fields, names, source, line)
        yield source.text(fields[column], line)


def check_fields(fields: list[str], names: list[str], source: TextFile, line: int) -> None:
    """Check that a line of a table has as many fields as its header.

    Raises:
        UserError: it has not.
    """
    if len(fields) != len(names):
        plural = "" if len(fields) == 1 else "s"
        raise UserError(
            f"{source.path}, line {line} has {len(fields)} field{plural}, the header "
            f"{len(names)}; put quotes around a text that contains commas, or fix the line."
        )


def csv_rows(file: IO[bytes], source: TextFile) -> Iterator[tuple[int, list[str]]]:
    """Yield the fields of each row that is not blank, and the number of its first line.

    Raises:
        UserError: a quoted field is not closed, or goes on after its closing quote.
    """
    csv.field_size_limit(sys.maxsize)
    table = csv.reader(read_text(file, source), strict=True)
    while True:
        line = table.line_num + 1
        try:
            fields = next(table, None)
        except csv.Error as error:
            reason = CSV_ERRORS.get(str(error), str(error).partition(" - ")[0])
            last = f", line {table.line_num}" if table.line_num > line else ""
            raise UserError(
                f"{source.path}, line {line} is not CSV ({reason}{last}); fix or remove it."
            ) from error
        if fields is None:
            return
        if fields:
            yield line, fields


def _read_parquet(file: IO[bytes], source: TextFile) -> Iterator[str]:
    with parquet_table(file, source) as table:
        source.check_column(table.schema_arrow.names)
        first = 1
        for page in table.iter_batches(columns=[source.text_column]):
            for number, text in enumerate(_texts(page.column(0), source, first), first):
                yield source.text(text, number)
            first += page.num_rows


@contextmanager
def parquet_table(file: IO[bytes], source: TextFile) -> Iterator[Any]:
    """Open a parquet file.

    Raises:
        UserError: it is damaged.
    """
    import pyarrow
    import pyarrow.parquet

    with tempfile.TemporaryFile() as decompressed:
        if source.path.suffix.lower() in OPENERS:  # parquet needs random access
            shutil.copyfileobj(file, decompressed)
            file = decompressed
        try:
            yield pyarrow.parquet.ParquetFile(file)
        except pyarrow.ArrowException as error:
            reason = str(error).splitlines()[0].rstrip(".")
            raise UserError(
                f"{source.path} is not a whole parquet file ({reason}); fetch it again."
            ) from error


def _texts(column: Any, source: TextFile, first: int) -> list[Any]:
    """Return a column's values, decoding bytes that are not UTF-8; `first` is its first record."""
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
                raise source.not_text_error(number, byte) from error
        return texts


class _RepeatingObject(dict[str, Any]):
    """A JSON object that has a name more than once."""

    def __init__(self, pairs: list[tuple[str, Any]]):
        super().__init__(pairs)
        self.names = [name for name, _ in pairs]


def _json_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    return values if len(values) == len(pairs) else _RepeatingObject(pairs)


def parsed(text: str, path: Path, line: int | None = None) -> Any:
    """Return the value of a JSON text."""
    try:
        return json.loads(text, object_pairs_hook=_json_object)
    except (ValueError, RecursionError) as error:  # ValueError also for too many digits
        where = f"{path}" if line is None else f"{path}, line {line}"
        raise UserError(f"{where} is not JSON ({error}); fix or remove it.") from error


READERS: dict[str, Callable[[IO[bytes], TextFile], Iterator[str]]] = {
    ".txt": read_text,
    ".md": read_text,
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
