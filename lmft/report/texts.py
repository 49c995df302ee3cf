"""The files that a comparison leaves."""

from lmft.comparison import Comparison
from lmft.history import read_curves
from lmft.report import as_markdown, as_page


def as_texts(comparison: Comparison, notes: list[str]) -> dict[str, str]:
    """Markdown and page by file name, with the curves of the runs' folders."""
    found = {run.letter: read_curves(run.folder) for run in comparison.runs}
    return {
        "compare.md": as_markdown(comparison, notes),
        "compare.html": as_page(comparison, notes, found),
    }
