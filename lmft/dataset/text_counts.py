"""Count the documents and bytes of a split while they are read."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lmft.dataset.chat_template import Rendered
from lmft.dataset.documents import Piece
from lmft.output.terminal import counted, readable_size

NOT_OF_TEXT = {"learnt": None, "unlearnt": 0, "taken": ""}  # what counts of a text do not have


@dataclass(frozen=True)
class TextCounts:
    """How much text a split has."""

    files: int | None = None  # None if the source is not files
    documents: int = 0
    empty: int = 0  # documents of nothing but white space; a null is one
    bytes: int = 0  # of all documents, in UTF-8
    learnt: float | None = None  # share of tokens that are targets; None: all are
    unlearnt: int = 0  # documents without any
    taken: str = ""  # from which columns, if they are not text

    def as_dict(self) -> dict[str, Any]:
        """Return the counts; of a text, without those of chats and completions."""
        return {
            name: value
            for name, value in vars(self).items()
            if name not in NOT_OF_TEXT or value != NOT_OF_TEXT[name]
        }

    def describe(self) -> str:
        """Return the counts on one line: `1 file · 2 documents · 0 empty · 2.7 kB`."""
        parts = [] if self.files is None else [counted(self.files, "file")]
        parts += [counted(self.documents, "document"), f"{self.empty:,} empty"]
        parts += [readable_size(self.bytes), *([self.taken] if self.taken else [])]
        if self.learnt is not None:
            parts.append(f"{self.learnt:.0%} of tokens learnt")
        if self.unlearnt:
            parts.append(f"{self.unlearnt:,} without any")
        return " · ".join(parts)


class TextCounter:
    """Counts the documents that pass."""

    def __init__(self) -> None:
        self._documents = self._empty = self._bytes = 0
        self._is_empty = True  # the document so far

    @property
    def counts(self) -> TextCounts:
        """The counts of the documents that were passed on."""
        return TextCounts(None, self._documents, self._empty, self._bytes)

    def pieces(self, pieces: Iterator[Piece]) -> Iterator[Piece]:
        """Pass pieces of documents on."""
        for text, ends in pieces:
            self.add(text, ends)
            yield text, ends

    def rendered(self, documents: Iterator[Rendered]) -> Iterator[Rendered]:
        """Pass rendered documents on."""
        for one in documents:
            self.add(one.text, True)
            yield one

    def add(self, text: str, ends: bool) -> None:
        """Count a piece of a document."""
        self._bytes += len(text) if text.isascii() else len(text.encode())
        self._is_empty = self._is_empty and (not text or text.isspace())
        if ends:
            self._documents += 1
            self._empty += self._is_empty
            self._is_empty = True
