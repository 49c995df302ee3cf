"""Count the documents and bytes of a split while they are read."""

from collections.abc import Iterator
from dataclasses import dataclass

from lmft.dataset.documents import Piece
from lmft.output.terminal import counted, readable_size


@dataclass(frozen=True)
class TextCounts:
    """How much text a split has."""

    files: int | None = None  # None if the source is not files
    documents: int = 0
    empty: int = 0  # documents of nothing but white space; a null is one
    bytes: int = 0  # of all documents, in UTF-8

    def describe(self) -> str:
        """Return the counts on one line: `1 file · 2 documents · 0 empty · 2.7 kB`."""
        parts = [] if self.files is None else [counted(self.files, "file")]
        parts += [counted(self.documents, "document"), f"{self.empty:,} empty"]
        return " · ".join([*parts, readable_size(self.bytes)])


class CountedPieces:
    """An iterator over pieces of documents that counts what it passes on."""

    def __init__(self, pieces: Iterator[Piece]):
        self._pieces = pieces
        self._documents = self._empty = self._bytes = 0

    @property
    def counts(self) -> TextCounts:
        """The counts of the documents that were passed on."""
        return TextCounts(None, self._documents, self._empty, self._bytes)

    def __iter__(self) -> Iterator[Piece]:
        is_empty = True
        for text, ends in self._pieces:
            self._bytes += len(text) if text.isascii() else len(text.encode())
            is_empty = is_empty and (not text or text.isspace())
            if ends:
                self._documents += 1
                self._empty += is_empty
                is_empty = True
            yield text, ends
