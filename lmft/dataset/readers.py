"""Read files of every format: lines of text, or records with their columns."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO

from lmft.config.dataset_knobs import TextErrors
from lmft.dataset.decoding import read_lines
from lmft.dataset.formats.columnar import (
    read_arrow,
    read_arrow_names,
    read_parquet,
    read_parquet_names,
)
from lmft.dataset.formats.columns import clean_text, clean_values, text_of
from lmft.dataset.formats.compressed import OPENERS, open_bytes
from lmft.dataset.formats.delimited import read_csv, read_csv_names, read_tsv, read_tsv_names
from lmft.dataset.formats.json_records import read_json, read_json_lines
from lmft.dataset.formats.record import Reading, Record, names_of

TEXT_FORMATS = (".txt", ".md", ".tokens")  # .tokens as in wiki.train.tokens
RECORD_FORMATS: dict[str, Callable[[IO[bytes], Path, Reading], Iterator[Record]]] = {
    ".jsonl": read_json_lines,
    ".json": read_json,
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".parquet": read_parquet,
    ".arrow": read_arrow,
}
HEADERS: dict[str, Callable[[IO[bytes], Path, Reading], list[str]]] = {
    ".csv": read_csv_names,
    ".tsv": read_tsv_names,
    ".parquet": read_parquet_names,
    ".arrow": read_arrow_names,
}
FORMATS = (*TEXT_FORMATS, *RECORD_FORMATS)


def format_of(path: Path) -> str:
    """Return the suffix of the format, without compression: `.txt` for `notes.txt.gz`."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in OPENERS:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def has_records(path: Path) -> bool:
    """Check whether a file has records with columns; one of any other format is text."""
    return format_of(path) in RECORD_FORMATS


def read_records(path: Path, reading: Reading) -> Iterator[Record]:
    """Yield the records of a file in constant memory.

    Args:
        path: a file that `has_records`.
        reading: how they are read. If it names a column, others may be missing from the values.

    Raises:
        UserError: the file is damaged, is not text, or lacks the column.
    """
    with open_bytes(path) as file:
        yield from RECORD_FORMATS[format_of(path)](file, path, reading)


def read_names(path: Path, reading: Reading) -> list[str]:
    """Return the columns of a file that `has_records`: of its header, schema or first record."""
    if read_header := HEADERS.get(format_of(path)):
        with open_bytes(path) as file:
            return read_header(file, path, reading)
    return next((names_of(record.values) for record in read_records(path, reading)), [])


def read_clean_records(path: Path, reading: Reading) -> Iterator[Record]:
    """Yield the records of a file with the texts in them as `clean_text` gives them, at any depth.

    Raises:
        UserError: the file is damaged, or is not text.
    """
    for record in read_records(path, reading):
        yield replace(record, values=clean_values(record.values, record, reading.errors))


def read_rows(
    path: Path, text_column: str, errors: TextErrors, delimiter: str | None = None
) -> Iterator[str]:
    """Yield the lines of a text file with their line ends, or the text of each record.

    Args:
        path: the file.
        text_column: of records.
        errors: what becomes of bytes that are no text.
        delimiter: of .csv and .tsv; None: a comma and a tab.

    Raises:
        UserError: the file is damaged, is not text, or lacks the column.
    """
    if has_records(path):
        for record in read_records(path, Reading(errors, delimiter, text_column)):
            yield clean_text(text_of(record, text_column), record, errors)
        return
    with open_bytes(path) as file:
        yield from read_lines(file, path, errors)
