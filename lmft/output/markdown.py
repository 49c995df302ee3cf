"""Write Markdown in which no text can act as markup."""

import re
from collections.abc import Collection, Sequence

from lmft.output.sanitize import strip_control

SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$&])")


def escape(text: str) -> str:
    """Return Markdown that renders as `text`."""
    return SPECIAL.sub(r"\\\1", strip_control(text))


def fence(text: str, language: str = "text") -> str:
    """Return a code block of `text`; its fence is longer than any run of backticks inside."""
    text = strip_control(text)
    longest = max((len(ticks) for ticks in re.findall("`+", text)), default=0)
    ticks = "`" * max(3, longest + 1)
    return f"{ticks}{language}\n{text.rstrip()}\n{ticks}"


def table(
    header: Sequence[str], rows: Sequence[Sequence[str]], numbers: Collection[int] | None = None
) -> str:
    """Return a table; line breaks in cells stay.

    Args:
        header: names of the columns.
        rows: cells as plain text.
        numbers: the columns to align to the right; None: those that have only numbers.
    """
    if numbers is None:
        columns = list(zip(*rows, strict=True))
        numbers = [n for n, column in enumerate(columns) if all(map(_is_number, column))]
    cells = [[_cell(text) for text in row] for row in (header, *rows)]
    cells.insert(1, ["---:" if n in numbers else "---" for n in range(len(header))])
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def details(summary: str, text: str) -> str:
    """Return a section that is collapsed under `summary` until a reader opens it."""
    return f"<details>\n<summary>{summary}</summary>\n\n{text}\n\n</details>"


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[\d,.]*", text) is not None


def _cell(text: str) -> str:
    lines = (" ".join(line.split()) for line in strip_control(text).strip().split("\n"))
    return "<br>".join(map(escape, lines))
