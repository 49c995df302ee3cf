"""Markdown that no text can break out of."""

import re
from collections.abc import Sequence

from lmft.output.sanitize import strip_control


def fence(text: str, language: str = "text") -> str:
    """A block that shows `text` as it is: its fence is longer than any run of ticks inside."""
    text = strip_control(text)
    longest = max((len(ticks) for ticks in re.findall("`+", text)), default=0)
    ticks = "`" * max(3, longest + 1)
    return f"{ticks}{language}\n{text.rstrip()}\n{ticks}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; columns of numbers stand to the right."""
    columns = zip(*rows, strict=True)
    marks = ["---:" if all(map(_is_number, column)) else "---" for column in columns]
    cells = [[_cell(text) for text in row] for row in (head, *rows)]
    cells.insert(1, marks)
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def folded(title: str, text: str) -> str:
    """A part that a reader opens by a click."""
    return f"<details>\n<summary>{title}</summary>\n\n{text}\n\n</details>"


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[\d,.]*", text) is not None


def _cell(text: str) -> str:
    return re.sub(r"([\\|`<*_\[&])", r"\\\1", " ".join(strip_control(text).split()))
