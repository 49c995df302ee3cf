"""Split rows into documents.

A document is a text that stands for itself: separators are put between documents, and scores are
summed per document. A document is passed on in pieces, so that a long one needs little memory.
"""

import re
from collections.abc import Callable, Iterator

Piece = tuple[str, bool]  # text of a part of a document, and whether it is the document's last part
PIECE_SIZE = 1 << 20  # characters; longer documents are split into several pieces

# WikiText's ` = Title = `, not ` = = Section = = `.
TITLE = re.compile(r" = (?!= )[^\n]*(?<! =) = \s*")

# (previous row, row, next row) -> whether a document starts at the row
StartsDocument = Callable[[str, str, str], bool]

# The choices of dataset.document. The first row of a file always starts a document; its previous
# row is "", and so is the next row of the last one.
RULES: dict[str, StartsDocument] = {
    "row": lambda before, row, after: True,
    "line": lambda before, row, after: True,
    "file": lambda before, row, after: False,
    "blank_line": lambda before, row, after: not before.strip() and bool(row.strip()),
    "article": lambda before, row, after: (
        TITLE.fullmatch(row) is not None and not before.strip() and not after.strip()
    ),
}
LINE_RULES = {"line", "blank_line", "article"}  # split rows that have several lines


def split_documents(rows: Iterator[str], rule: str) -> Iterator[Piece]:
    """Yield documents in pieces of at most `PIECE_SIZE` characters, without changing the text.

    Blank rows before the first document belong to it.

    Args:
        rows: of one file or split; see `lmft.dataset.sources.Rows`.
        rule: a key of `RULES`.
    """
    if rule in LINE_RULES:
        rows = (line for row in rows for line in _lines(row))
    buffer: list[str] = []
    size = 0
    for row, starts in _with_starts(rows, RULES[rule]):
        if starts:
            yield "".join(buffer), True
            buffer, size = [], 0
        for start in range(0, max(len(row), 1), PIECE_SIZE):
            part = row[start : start + PIECE_SIZE]
            if size + len(part) > PIECE_SIZE:
                yield "".join(buffer), False
                buffer, size = [], 0
            buffer.append(part)
            size += len(part)
    if buffer:
        yield "".join(buffer), True


def article_starts(documents: Iterator[str]) -> Iterator[bool]:
    """For each document, a part of a WikiText article, yield whether it starts a new article."""
    return (starts for _, starts in _with_starts(documents, RULES["article"]))


def _with_starts(rows: Iterator[str], starts: StartsDocument) -> Iterator[tuple[str, bool]]:
    """Yield each row with whether it starts a second or later document."""
    before, row = "", next(rows, None)
    first, only_blank = True, True  # only_blank: all rows so far
    while row is not None:
        after = next(rows, None)
        every_row = starts is RULES["row"] or starts is RULES["line"]
        yield row, not first and (every_row or not only_blank) and starts(before, row, after or "")
        first, only_blank = False, only_blank and not row.strip()
        before, row = row, after


def _lines(row: str) -> list[str]:
    """Split `row` into lines with their line ends; an empty row is one empty line."""
    lines = [line + "\n" for line in row.split("\n")]
    lines[-1] = lines[-1][:-1]
    return lines if lines[-1] or len(lines) == 1 else lines[:-1]


def whole_documents(pieces: Iterator[Piece]) -> Iterator[Piece]:
    """Join the pieces of each document."""
    texts: list[str] = []
    for text, ends in pieces:
        texts.append(text)
        if ends:
            yield "".join(texts), True
            texts = []
