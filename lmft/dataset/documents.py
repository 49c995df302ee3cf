"""From rows to documents: which row starts a new one."""

import re
from collections.abc import Callable, Iterator

Piece = tuple[str, bool]  # a part of a document, and whether the document ends with it

PIECE_SIZE = 1 << 20  # characters; longer documents flow on in pieces

TITLE = re.compile(
    r" = (?!= )[^\n]*(?<! =) = \s*"
)  # WikiText's ` = Title = `, not ` = = Part = = `

Starts = Callable[[str, str, str], bool]  # (row before, row, row after) -> a document starts here

# Past the first row of a file, which always starts one. "" stands before it and after the last.
RULES: dict[str, Starts] = {
    "row": lambda before, row, after: True,
    "line": lambda before, row, after: True,
    "file": lambda before, row, after: False,
    "blank_line": lambda before, row, after: not before.strip() and bool(row.strip()),
    "article": lambda before, row, after: (
        TITLE.fullmatch(row) is not None and not before.strip() and not after.strip()
    ),
}

BY_LINE = {"line", "blank_line", "article"}  # look at lines, even where rows hold several


def split_documents(rows: Iterator[str], rule: str) -> Iterator[Piece]:
    """The rows' text, exactly, as a stream of documents in pieces of at most `PIECE_SIZE`.

    Blank rows before the first document belong to it.
    """
    if rule in BY_LINE:
        rows = (line for row in rows for line in _lines(row))
    buffer: list[str] = []
    size = 0
    for row, starts in _marked(rows, RULES[rule]):
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
    """Whether each document, smaller than an article, is the first of one."""
    return (starts for _, starts in _marked(documents, RULES["article"]))


def _marked(rows: Iterator[str], starts: Starts) -> Iterator[tuple[str, bool]]:
    """Each row with whether it ends the document before it by starting a new one."""
    before, row = "", next(rows, None)
    first, only_blank = True, True
    while row is not None:
        after = next(rows, None)
        alone = starts is RULES["row"] or starts is RULES["line"]
        yield row, not first and (alone or not only_blank) and starts(before, row, after or "")
        first, only_blank = False, only_blank and not row.strip()
        before, row = row, after


def _lines(row: str) -> list[str]:
    """The lines of `row`, ends kept; an empty row is one empty line."""
    lines = [line + "\n" for line in row.split("\n")]
    lines[-1] = lines[-1][:-1]
    return lines if lines[-1] or len(lines) == 1 else lines[:-1]
