"""Rows of the file formats that people keep text in, compressed or not."""

import csv
import gzip
import io
import json
import lzma
import shutil
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

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


def rows_of(path: Path, text_column: str) -> Iterator[str]:
    """The rows of one file: its lines (ends kept) or the texts of its records.

    Raises:
        UserError: the file is broken, is not UTF-8, or lacks the column.
    """
    try:
        opener = OPENERS.get(path.suffix.lower())
        with opener(path) if opener else path.open("rb") as file:
            yield from READERS[format_of(path)](file, path, text_column)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8: byte {error.object[error.start] if error.object else 0:#04x} "
            "cannot be read; convert the file, for example with iconv."
        ) from error
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(f"{path} cannot be read ({reason}); fetch it again.") from error


def _read_text(file: IO[bytes], path: Path, text_column: str) -> Iterator[str]:
    with io.TextIOWrapper(file, encoding="utf-8", newline="\n") as text:
        yield from text


def _read_jsonl(file: IO[bytes], path: Path, text_column: str) -> Iterator[str]:
    for number, line in enumerate(_read_text(file, path, text_column), start=1):
        if line.strip():
            yield _column(_parsed(line, f"{path}, line {number}"), path, text_column)


def _read_json(file: IO[bytes], path: Path, text_column: str) -> Iterator[str]:
    records = _parsed(file.read().decode(), str(path))
    if not isinstance(records, list):
        raise UserError(f"{path} holds no list of records; one record a line is .jsonl.")
    for record in records:
        yield _column(record, path, text_column)


def _read_csv(file: IO[bytes], path: Path, text_column: str) -> Iterator[str]:
    csv.field_size_limit(sys.maxsize)
    with io.TextIOWrapper(file, encoding="utf-8", newline="") as text:
        for record in csv.DictReader(text):
            yield _column(record, path, text_column)


def _read_parquet(file: IO[bytes], path: Path, text_column: str) -> Iterator[str]:
    import pyarrow
    import pyarrow.parquet

    with tempfile.TemporaryFile() as unpacked:
        if path.suffix.lower() in OPENERS:  # parquet is read here and there, not front to back
            shutil.copyfileobj(file, unpacked)
            file = unpacked
        try:
            table = pyarrow.parquet.ParquetFile(file)
            columns = dict.fromkeys(table.schema_arrow.names)
            _column(columns, path, text_column)
            for page in table.iter_batches(columns=[text_column]):
                for text in page.column(0).to_pylist():
                    yield _column({**columns, text_column: text}, path, text_column)
        except pyarrow.ArrowException as error:
            reason = str(error).splitlines()[0].rstrip(".")
            raise UserError(
                f"{path} is not a whole parquet file ({reason}); fetch it again."
            ) from error


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{where} is not JSON ({error}); mend or remove it.") from error


def _column(record: Any, path: Path, text_column: str) -> str:
    """The record's text; a null is an empty one."""
    if not isinstance(record, dict) or text_column not in record:
        found = ", ".join(map(str, record)) if isinstance(record, dict) else type(record).__name__
        raise UserError(
            f"dataset.text_column is {text_column!r}, but {path} has {found}; "
            "set dataset.text_column to one of them."
        )
    text = record[text_column]
    if text is not None and not isinstance(text, str):
        raise UserError(
            f"dataset.text_column is {text_column!r}, but {path} holds {type(text).__name__} "
            "there, not text; choose another column."
        )
    text = text or ""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{path} holds half a character ({text[error.start]!a}), which is no text; "
            "mend or remove it."
        ) from error
    return text


READERS: dict[str, Callable[[IO[bytes], Path, str], Iterator[str]]] = {
    ".txt": _read_text,
    ".md": _read_text,
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
