"""Read whole records from files, with all their columns."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

from lmft.dataset.readers import (
    OPENERS,
    TextFile,
    check_fields,
    csv_rows,
    format_of,
    json_records,
    parquet_table,
    parsed,
    read_text,
    readable,
)
from lmft.errors import UserError


@dataclass(frozen=True)
class Record:
    """One record of a file or table."""

    where: str  # the file or table
    number: int  # from 1; of a line in .csv and .jsonl
    values: dict[str, Any]  # by column
    unit: str = "record"  # what `number` counts

    @property
    def place(self) -> str:
        """Where the record is, for messages."""
        return f"{self.where}, {self.unit} {self.number}"


def read_records(source: TextFile) -> Iterator[Record]:
    """Yield the records of a file.

    Raises:
        UserError: the file is damaged, or is not text.
    """
    for number, values in _numbered(source):
        if not isinstance(values, dict):
            raise UserError(
                f"{source.path} has {type(values).__name__} in {source.unit} {number}, not an "
                "object with columns; fix or remove it."
            )
        yield Record(str(source.path), number, _checked(values, source, number), source.unit)


def read_names(source: TextFile) -> list[str]:
    """Return the columns of a file: those of its header, its schema or its first record."""
    with _opened(source) as file:
        if format_of(source.path) == ".csv":
            return next(csv_rows(file, source), (0, []))[1]
        if format_of(source.path) == ".parquet":
            with parquet_table(file, source) as table:
                return list(table.schema_arrow.names)
    first = next(_numbered(source), (0, None))[1]
    return list(first) if isinstance(first, dict) else []


@contextmanager
def _opened(source: TextFile) -> Iterator[IO[bytes]]:
    opener = OPENERS.get(source.path.suffix.lower())
    with readable(source.path):
        with opener(source.path) if opener else source.path.open("rb") as file:
            yield file


def _numbered(source: TextFile) -> Iterator[tuple[int, Any]]:
    with _opened(source) as file:
        yield from _RECORDS[format_of(source.path)](file, source)


def _checked(value: Any, source: TextFile, number: int) -> Any:
    """Return a value with the texts in it checked, at any depth."""
    if isinstance(value, str):
        return source.text(value, number)
    if isinstance(value, dict):
        return {key: _checked(item, source, number) for key, item in value.items()}
    if isinstance(value, list):
        return [_checked(item, source, number) for item in value]
    return value


def _jsonl(file: IO[bytes], source: TextFile) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(read_text(file, source), start=1):
        if line.strip():
            yield number, parsed(line, source.path, number)


def _json(file: IO[bytes], source: TextFile) -> Iterator[tuple[int, Any]]:
    yield from enumerate(json_records(file, source), start=1)


def _csv(file: IO[bytes], source: TextFile) -> Iterator[tuple[int, Any]]:
    rows = csv_rows(file, source)
    names = next(rows, (0, []))[1]
    for line, fields in rows:
        check_fields(fields, names, source, line)
        yield line, dict(zip(names, fields, strict=True))


def _parquet(file: IO[bytes], source: TextFile) -> Iterator[tuple[int, Any]]:
    with parquet_table(file, source) as table:
        rows = (values for page in table.iter_batches() for values in page.to_pylist())
        yield from enumerate(rows, start=1)


_RECORDS = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".parquet": _parquet}
