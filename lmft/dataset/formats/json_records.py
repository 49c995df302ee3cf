"""Records of JSON files: lines, an array, or an object whose `data` is an array."""

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from lmft.dataset.decoding import read_lines, read_texts
from lmft.dataset.formats.record import Reading, Record, as_values
from lmft.errors import UserError
from lmft.output.terminal import readable_size

MOST = 1 << 28  # characters of one value, which is decoded in memory
NEAR_END = 16  # characters; an error so close to the end may be of a value that goes on
SPACE = re.compile(r"[ \t\n\r]*")
DECODER = json.JSONDecoder(object_pairs_hook=as_values)


def read_json_lines(file: IO[bytes], path: Path, reading: Reading) -> Iterator[Record]:
    """Yield the records of a file with one in each line; blank lines are skipped."""
    for number, line in enumerate(read_lines(file, path, reading.errors), start=1):
        if line.strip():
            try:
                value = DECODER.decode(line)
            except (ValueError, RecursionError) as error:  # ValueError also for too many digits
                raise _not_json(path, number, error) from error
            yield _record(path, number, value, "line")


def read_json(file: IO[bytes], path: Path, reading: Reading) -> Iterator[Record]:
    """Yield the records of a file that is an array, has one in `data`, or is one value a line."""
    values = JsonValues(read_texts(file, path, reading.errors), path)
    if values.next_is("["):
        yield from _numbered(path, values.items())
        return
    lines = values.lines()
    start = list(itertools.islice(lines, 2))
    first = start[0][1] if len(start) == 1 else None
    if isinstance(first, dict) and isinstance(first.get("data"), list):
        yield from _numbered(path, iter(first["data"]))
        return
    for line, value in itertools.chain(start, lines):
        yield _record(path, line, value, "line")


class JsonValues:
    """The values of a JSON text that arrives in chunks, decoded one by one."""

    def __init__(self, texts: Iterator[str], path: Path):
        self._texts, self._path = texts, path
        self._buffer, self._at = "", 0
        self._lines = 0  # line ends before the buffer

    def next_character(self) -> str:
        """Return the next character that is not space; "" at the end."""
        while True:
            match = SPACE.match(self._buffer, self._at)
            assert match is not None
            self._at = match.end()
            if self._at < len(self._buffer) or not self._read_more():
                return self._buffer[self._at : self._at + 1]

    def next_is(self, character: str) -> bool:
        """Check whether the next character is `character`; if so, go on behind it."""
        found = self.next_character() == character
        self._at += found
        return found

    def lines(self) -> Iterator[tuple[int, Any]]:
        """Yield all values to the end of the text, each with the line in which it starts."""
        while self.next_character():
            yield self._line(self._at), self.decode()

    def items(self) -> Iterator[Any]:
        """Yield the items of an array, from behind its opening bracket to the end of the text."""
        if not self.next_is("]"):
            yield self.decode()
            while self.next_is(","):
                yield self.decode()
            self._expect(self.next_is("]"), "Expecting ',' delimiter")
        self._expect(not self.next_character(), "Extra data")

    def decode(self) -> Any:
        """Return the next value.

        Raises:
            UserError: there is none.
        """
        self.next_character()
        while True:
            try:
                value, self._at = DECODER.raw_decode(self._buffer, self._at)
                return value  # a number may go on, but records are objects
            except (ValueError, RecursionError) as error:
                if self._is_cut(error):
                    self._check_size()
                    if self._read_more():
                        continue
                at = error.pos if isinstance(error, json.JSONDecodeError) else self._at
                raise _not_json(self._path, self._line(at), error) from error

    def _expect(self, is_there: bool, message: str) -> None:
        if not is_there:
            raise _not_json(self._path, self._line(self._at), message)

    def _line(self, at: int) -> int:
        """Return the line, from 1, of a position in the buffer."""
        return self._lines + self._buffer.count("\n", 0, at) + 1

    def _is_cut(self, error: Exception) -> bool:
        """Check whether an error may be that of a value whose end was not read yet."""
        if not isinstance(error, json.JSONDecodeError):
            return False
        unclosed = error.msg.startswith("Unterminated string")
        return unclosed or error.pos > len(self._buffer) - NEAR_END

    def _check_size(self) -> None:
        if len(self._buffer) - self._at > MOST:
            raise UserError(
                f"{self._path} has a value of more than {readable_size(MOST)} in line "
                f"{self._line(self._at)}; close its quotes and brackets, or write one record a "
                "line in a .jsonl file."
            )

    def _read_more(self) -> bool:
        """Read as much as is left to decode, and a chunk at least; return whether there is more."""
        self._lines += self._buffer.count("\n", 0, self._at)
        left = self._buffer[self._at :]
        parts, size = [left], 0
        for text in self._texts:
            parts.append(text)
            size += len(text)
            if text and size >= len(left):
                break
        self._buffer, self._at = "".join(parts), 0
        return size > 0


def _numbered(path: Path, values: Iterator[Any]) -> Iterator[Record]:
    return (_record(path, number, value) for number, value in enumerate(values, start=1))


def _record(path: Path, number: int, value: Any, unit: str = "record") -> Record:
    """Return a value of a file as a record.

    Raises:
        UserError: it is no object.
    """
    if not isinstance(value, dict):
        raise UserError(
            f"{path} has {type(value).__name__} in {unit} {number}, not an object with columns; "
            'write it as {"COLUMN": ...}.'
        )
    return Record(str(path), number, value, unit)


def _not_json(path: Path, line: int, error: Exception | str) -> UserError:
    reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
    reason = reason.removesuffix(" at").removesuffix(" starting")
    return UserError(f"{path}, line {line} is not JSON ({reason}); fix or remove it.")
