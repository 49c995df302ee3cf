"""Records of Parquet and Arrow files."""

import mmap
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from lmft.config.dataset_knobs import TextErrors
from lmft.dataset.formats.columns import not_text_error, outer_name
from lmft.dataset.formats.compressed import is_compressed
from lmft.dataset.formats.record import Reading, Record, as_values
from lmft.errors import UserError

MAGIC = b"ARROW1"  # of Arrow's file format; its stream format has none
ROWS = 1024  # turned into Python's values at once
BUFFER = 1 << 20  # bytes of a Parquet column read at once


def read_parquet(file: IO[bytes], path: Path, reading: Reading) -> Iterator[Record]:
    """Yield the rows of a Parquet file, of which only the needed column is read."""
    with _open_parquet(file, path) as table:
        names = _needed(table.schema_arrow.names, path, reading)
        yield from _records(table.iter_batches(ROWS, columns=names), path, reading)


def read_parquet_names(file: IO[bytes], path: Path, reading: Reading) -> list[str]:
    """Return the names of the columns of a Parquet file."""
    with _open_parquet(file, path) as table:
        return list(table.schema_arrow.names)


def read_arrow(file: IO[bytes], path: Path, reading: Reading) -> Iterator[Record]:
    """Yield the rows of an Arrow file, in its file or its stream format."""
    with _open_arrow(file, path) as (table, content):
        names = _needed(table.schema.names, path, reading)
        batches = (
            table if _is_stream(content) else map(table.get_batch, range(table.num_record_batches))
        )
        chosen = (batch if names is None else batch.select(names) for batch in batches)
        yield from _records(_slices(chosen, content), path, reading)


def read_arrow_names(file: IO[bytes], path: Path, reading: Reading) -> list[str]:
    """Return the names of the columns of an Arrow file."""
    with _open_arrow(file, path) as (table, _):
        return list(table.schema.names)


@contextmanager
def _open_parquet(file: IO[bytes], path: Path) -> Iterator[Any]:
    import pyarrow.parquet

    with _seekable(file, path) as whole, _as_sentence(path, "parquet"):
        # With pre_buffer, the default, all columns of a row group are read at once.
        yield pyarrow.parquet.ParquetFile(whole, buffer_size=BUFFER, pre_buffer=False)


@contextmanager
def _open_arrow(file: IO[bytes], path: Path) -> Iterator[tuple[Any, Any]]:
    """Open an Arrow file; the second value is its content, mapped into memory."""
    import pyarrow.ipc

    with _seekable(file, path) as whole, _as_sentence(path, "Arrow"):
        # Mapped, so that a batch of any size takes no memory.
        size = os.fstat(whole.fileno()).st_size
        content = mmap.mmap(whole.fileno(), size, access=mmap.ACCESS_READ) if size else b""
        open_table = pyarrow.ipc.open_stream if _is_stream(content) else pyarrow.ipc.open_file
        yield open_table(pyarrow.py_buffer(content)), content


def _is_stream(content: Any) -> bool:
    return bool(content[: len(MAGIC)] != MAGIC)


def _slices(batches: Iterator[Any], content: Any) -> Iterator[Any]:
    """Yield `ROWS` rows of a mapped file after the other; free the memory of those before."""
    for batch in batches:
        for start in range(0, batch.num_rows, ROWS):
            yield batch.slice(start, ROWS)
            content.madvise(mmap.MADV_DONTNEED)


def _needed(names: list[str], path: Path, reading: Reading) -> list[str] | None:
    """Return the columns to read; None: all.

    Raises:
        UserError: the one that is needed is not there.
    """
    if reading.column is None:
        return None
    return [outer_name(str(path), names, reading.column)]


def _records(batches: Iterator[Any], path: Path, reading: Reading) -> Iterator[Record]:
    first = 1
    for batch in batches:
        columns = [_values(column, path, reading.errors, first) for column in batch.columns]
        for number, row in enumerate(zip(*columns, strict=True), first):
            pairs = list(zip(batch.schema.names, row, strict=True))
            yield Record(str(path), number, as_values(pairs))
        first += batch.num_rows


def _values(column: Any, path: Path, errors: TextErrors, first: int) -> list[Any]:
    """Return a column's values, decoding bytes that are not UTF-8; `first` is its first record."""
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        raw = column.cast(_with_bytes(column.type)).to_pylist()
        values = []
        for number, value in enumerate(raw, first):
            try:
                values.append(_decoded(value, column.type, errors))
            except UnicodeDecodeError as error:
                byte = f"a byte that is not UTF-8 ({error.object[error.start]:#04x})"
                raise not_text_error(str(path), f"record {number}", byte) from error
        return values


def _with_bytes(kind: Any) -> Any:
    """Return an Arrow type with bytes where `kind` has text."""
    import pyarrow
    from pyarrow import types

    if types.is_string(kind) or types.is_large_string(kind):
        return pyarrow.large_binary()
    if types.is_list(kind) or types.is_large_list(kind):
        return pyarrow.large_list(_with_bytes(kind.value_type))
    if types.is_struct(kind):
        return pyarrow.struct([(part.name, _with_bytes(part.type)) for part in kind])
    return kind


def _decoded(value: Any, kind: Any, errors: TextErrors) -> Any:
    """Return a value of the type `_with_bytes(kind)` as one of `kind`."""
    from pyarrow import types

    if value is None:
        return None
    if types.is_string(kind) or types.is_large_string(kind):
        return value.decode(errors=errors.value)
    if types.is_list(kind) or types.is_large_list(kind):
        return [_decoded(item, kind.value_type, errors) for item in value]
    if types.is_struct(kind):
        return {part.name: _decoded(value[part.name], part.type, errors) for part in kind}
    return value


@contextmanager
def _seekable(file: IO[bytes], path: Path) -> Iterator[Any]:
    """Give random access to a file, decompressed to a temporary one if need be."""
    if not is_compressed(path):
        yield file
        return
    with tempfile.TemporaryFile() as decompressed:
        shutil.copyfileobj(file, decompressed)
        decompressed.seek(0)
        yield decompressed


@contextmanager
def _as_sentence(path: Path, format_name: str) -> Iterator[None]:
    """Explain in one sentence that a file is damaged.

    Raises:
        UserError: it is.
    """
    import pyarrow

    try:
        yield
    except pyarrow.ArrowException as error:
        reason = (str(error).splitlines() or ["unreadable"])[0].rstrip(".")
        raise UserError(
            f"{path} is not a whole {format_name} file ({reason}); fetch it again."
        ) from error
