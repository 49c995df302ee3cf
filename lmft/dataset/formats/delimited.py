"""Records of CSV and TSV files, whose first row has the names of the columns."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from lmft.dataset.decoding import read_lines
from lmft.dataset.formats.columns import outer_name
from lmft.dataset.formats.record import Reading, Record, as_values
from lmft.errors import UserError

MOST = 1 << 28  # characters of a field: a quote that is not closed must not fill the memory
CSV_ERRORS = {  # of Python's csv module, in words about the file
    "unexpected end of data": "a field that opens with a quote is not closed by the end",
    "field limit": "a field of more than 268 MB, whose quote may not be closed",
    "expected after": "text follows the closing quote of a field",
}


def read_csv(file: IO[bytes], path: Path, reading: Reading) -> Iterator[Record]:
    """Yield the rows of a .csv file."""
    return _read(file, path, reading, ",")


def read_tsv(file: IO[bytes], path: Path, reading: Reading) -> Iterator[Record]:
    """Yield the rows of a .tsv file."""
    return _read(file, path, reading, "\t")


def read_csv_names(file: IO[bytes], path: Path, reading: Reading) -> list[str]:
    """Return the names of the columns of a .csv file."""
    return next(_rows(file, path, reading, ","), (0, []))[1]


def read_tsv_names(file: IO[bytes], path: Path, reading: Reading) -> list[str]:
    """Return the names of the columns of a .tsv file."""
    return next(_rows(file, path, reading, "\t"), (0, []))[1]


def _read(file: IO[bytes], path: Path, reading: Reading, usual: str) -> Iterator[Record]:
    rows = _rows(file, path, reading, usual)
    _, names = next(rows, (0, None))
    if names is None:
        return
    if reading.column is not None:
        outer_name(str(path), names, reading.column)
    for line, fields in rows:
        if len(fields) != len(names):
            plural = "" if len(fields) == 1 else "s"
            delimiter = _delimiter(reading, usual)
            what = {",": "commas", "\t": "tabs"}.get(delimiter, repr(delimiter))
            raise UserError(
                f"{path}, line {line} has {len(fields)} field{plural}, the header "
                f"{len(names)}; put quotes around a text that contains {what}, or fix the line."
            )
        yield Record(str(path), line, as_values(list(zip(names, fields, strict=True))), "line")


def _delimiter(reading: Reading, usual: str) -> str:
    return (reading.delimiter or usual).replace("\\t", "\t")  # as shells pass a tab


def _rows(
    file: IO[bytes], path: Path, reading: Reading, usual: str
) -> Iterator[tuple[int, list[str]]]:
    """Yield the fields of each row that is not blank, and the number of its first line.

    Raises:
        UserError: a quoted field is not closed, or goes on after its closing quote.
    """
    csv.field_size_limit(MOST)
    lines = read_lines(file, path, reading.errors)
    table = csv.reader(lines, strict=True, delimiter=_delimiter(reading, usual))
    while True:
        line = table.line_num + 1
        try:
            fields = next(table, None)
        except csv.Error as error:
            text = str(error)
            known = (words for part, words in CSV_ERRORS.items() if part in text)
            reason = next(known, text.partition(" - ")[0])
            last = f", line {table.line_num}" if table.line_num > line else ""
            raise UserError(
                f"{path}, line {line} is not {path_format(path)} ({reason}{last}); fix or "
                "remove it."
            ) from error
        if fields is None:
            return
        if fields:
            yield line, fields


def path_format(path: Path) -> str:
    """Return CSV or TSV, after the name of a file."""
    return "TSV" if ".tsv" in (suffix.lower() for suffix in path.suffixes[-2:]) else "CSV"
