"""Draw figures as SVG text, all in one style. The same data give the same bytes."""

import io
import math
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f4f24", "#555555")
GRAY = "#888888"  # of axes and reference lines
STYLE: dict[str, Any] = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "lmft",  # else element ids are random
    "text.parse_math": False,  # a $ in a name is a $
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "axes.edgecolor": GRAY,
    "axes.formatter.useoffset": False,
    "legend.frameon": False,
}
MOST_POINTS = 300  # of a curve


@contextmanager
def new_figure(
    size: tuple[float, float],
    rows: int = 1,
    columns: int = 1,
    layout: Literal["constrained"] | None = "constrained",
    **options: Any,
) -> Iterator[tuple["Figure", list["Axes"]]]:
    """Yield a figure and its axes, row by row. Draw inside, where STYLE holds.

    No window is opened.

    Args:
        size: width and height in inches.
        rows: of axes.
        columns: of axes.
        layout: None if the caller places the axes, which takes half the time.
        options: of `Figure.subplots`.
    """
    from matplotlib import rc_context

    from lmft.output.figure import ShownFigure

    with rc_context(STYLE):  # type: ignore[arg-type]
        figure = ShownFigure(size, layout=layout)
        yield figure, list(figure.subplots(rows, columns, squeeze=False, **options).flat)


def as_svg(figure: "Figure") -> str:
    """Return the figure as the text of an SVG file, without the date and matplotlib's version."""
    from matplotlib import rc_context

    file = io.StringIO()
    # Text stays text, so the viewer's fonts matter, and a glyph that is missing here does not.
    with rc_context(STYLE), warnings.catch_warnings():  # type: ignore[arg-type]
        warnings.filterwarnings("ignore", "Glyph .* missing")
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", metadata=metadata)
    return file.getvalue()


def as_svg_element(figure: "Figure") -> str:
    """Return the figure as an <svg> element for an HTML page, without size and web addresses."""
    svg = as_svg(figure)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.S)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg, count=2)
    return re.sub(r' width="[^"]*pt"| height="[^"]*pt"', "", svg, count=2)


def thin(points: np.ndarray, most: int = MOST_POINTS) -> tuple[np.ndarray, np.ndarray]:
    """Average neighboring points of a curve, so that at most `most` are left.

    Args:
        points: x and y (N, 2), in order of x.
        most: points to leave; few of them make a noisy curve smooth.

    Returns:
        The last x and the mean y of each group of neighbors, (M,) each.
    """
    size = max(1, math.ceil(len(points) / most))
    starts = np.arange(0, len(points), size)
    ends = np.append(starts, len(points))[1:]
    return points[ends - 1, 0], np.add.reduceat(points[:, 1], starts) / (ends - starts)
