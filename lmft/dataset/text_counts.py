"""Count the documents, duplicates and bytes of a split while they are read.

Documents are compared by hashes of 64 bits. Among a million documents, two that differ have the
same hash with a probability of 3e-8.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha1

import numpy as np

from lmft.dataset.chat_template import Rendered
from lmft.dataset.documents import Piece
from lmft.output.terminal import counted, readable_size

HASH = 8  # bytes, the first of a SHA-1
EMPTY = bytes(HASH)  # in place of the hash of an empty document, which is no duplicate


@dataclass(frozen=True)
class TextCounts:
    """How much text a split has."""

    files: int | None = None  # None if the source is not files
    documents: int = 0
    empty: int = 0  # documents of nothing but white space; a null is one
    bytes: int = 0  # of all documents, in UTF-8
    duplicates: int = 0  # documents equal to an earlier one of the split
    in_training: int = 0  # documents of another split that are in training too
    left_out: int = 0  # documents that dataset.drop_duplicates left out; none of the above
    learnt: float | None = None  # share of tokens that are targets; None: all are
    unlearnt: int = 0  # documents without any
    taken: str = ""  # from which columns, if they are not text

    def describe(self) -> str:
        """Return the counts on one line: `1 file · 2 documents · 0 empty · 2.7 kB`."""
        parts = [] if self.files is None else [counted(self.files, "file")]
        parts += [counted(self.documents, "document"), f"{self.empty:,} empty"]
        parts += [counted(self.duplicates, "duplicate")] if self.duplicates else []
        parts += [f"{self.in_training:,} in training too"] if self.in_training else []
        parts += [f"{counted(self.left_out, 'duplicate')} left out"] if self.left_out else []
        parts += [readable_size(self.bytes), *([self.taken] if self.taken else [])]
        if self.learnt is not None:
            parts.append(f"{self.learnt:.0%} of tokens learnt")
        if self.unlearnt:
            parts.append(f"{self.unlearnt:,} without any")
        return " · ".join(parts)


class TextCounter:
    """Counts the documents that pass."""

    def __init__(self) -> None:
        self._hashes = bytearray()
        self._documents = self._empty = self._bytes = 0
        self._is_empty, self._document = True, sha1(usedforsecurity=False)  # the document so far

    @property
    def counts(self) -> TextCounts:
        """The counts of the documents that were passed on."""
        duplicates = self._documents - int(first_of_each(self.hashes).sum())
        return TextCounts(None, self._documents, self._empty, self._bytes, duplicates)

    @property
    def hashes(self) -> np.ndarray:
        """The hashes of the documents that were passed on, (D,) uint64."""
        return np.frombuffer(bytes(self._hashes), dtype=np.uint64)

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
        encoded = text.encode()
        self._bytes += len(encoded)
        self._document.update(encoded)
        self._is_empty = self._is_empty and (not text or text.isspace())
        if ends:
            self._documents += 1
            self._empty += self._is_empty
            self._hashes += EMPTY if self._is_empty else self._document.digest()[:HASH]
            self._is_empty, self._document = True, sha1(usedforsecurity=False)


def hash_documents(pieces: Iterator[Piece]) -> np.ndarray:
    """Return the hashes of documents, (D,) uint64."""
    counter = TextCounter()
    for text, ends in pieces:
        counter.add(text, ends)
    return counter.hashes


def first_of_each(hashes: np.ndarray) -> np.ndarray:
    """Return which documents are empty or the first of those equal to them, (D,) bool."""
    firsts: np.ndarray = hashes == 0
    firsts[np.unique(hashes, return_index=True)[1]] = True
    return firsts


def are_among(hashes: np.ndarray, training: np.ndarray) -> np.ndarray:
    """Return which documents are in training too, (D,) bool; an empty one is not."""
    among: np.ndarray = np.isin(hashes, training) & (hashes != 0)
    return among
