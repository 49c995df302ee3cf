"""The picture of a sweep: what each knob does to the result."""

import io
import math
import statistics
import warnings
from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from lmft.analysis.compare.plots import COLORS, STYLE
from lmft.metrics import TokenLoss
from lmft.output.terminal import repr_text
from lmft.sweep.job import Note

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANEL = (3.6, 2.9)  # inches

COLUMNS = 3  # of panels

MOST_TICKS = 8

SHORT = 20  # characters of a tick's label

Place = Callable[[str], float]  # of a knob's value on its axis


def draw_knobs(groups: list[list[Note]]) -> dict[str, str]:
    """`knobs.svg`, a panel for each knob that varies, a colour for each group of comparable jobs.

    Nothing where no knob varies among them. The same jobs give the same text.
    """
    finite = [[note for note in group if math.isfinite(perplexity(note))] for group in groups]
    shown = [group for group in finite if group]
    jobs = sorted((note for group in shown for note in group), key=lambda note: note.number)
    values: dict[str, list[str]] = {}
    for note in jobs:
        for knob, value in note.knobs.items():
            values.setdefault(knob, []).append(value)
    varied = {knob: list(dict.fromkeys(v)) for knob, v in values.items() if len(set(v)) > 1}
    return {"knobs.svg": _draw(varied, shown)} if varied else {}


def _draw(varied: dict[str, list[str]], groups: list[list[Note]]) -> str:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    columns = min(COLUMNS, len(varied))
    rows = math.ceil(len(varied) / columns)
    with rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure((PANEL[0] * columns, PANEL[1] * rows), layout="constrained")
        panels = list(figure.subplots(rows, columns, squeeze=False, sharey=True).flat)
        for axes, (knob, values) in zip(panels, varied.items(), strict=False):
            place = lay_out(axes, values)
            for number, group in enumerate(groups):
                _points(axes, knob, group, place, COLORS[number % len(COLORS)])
            axes.set_xlabel(shortened(knob, 2 * SHORT))
        for axes in panels[len(varied) :]:
            axes.set_visible(False)
        for axes in panels[::columns]:
            axes.set_ylabel("validation perplexity")
        perplexities = [perplexity(note) for group in groups for note in group]
        if max(perplexities) > 10 * min(perplexities):
            panels[0].set_yscale("log")
        names = ["median", *(f"group {number}" for number in range(2, len(groups) + 1))]
        names[0] += ", group 1" if len(groups) > 1 else ""
        figure.legend(panels[0].lines[1::2], names, loc="outside lower center", ncols=COLUMNS)
        return _as_svg(figure)


def _as_svg(figure: "Figure") -> str:
    file = io.StringIO()
    with warnings.catch_warnings():  # text stays text: who looks at it has the fonts
        warnings.filterwarnings("ignore", "Glyph .* missing")
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def lay_out(axes: "Axes", values: list[str]) -> Place:
    """Make the x-axis for these values: numbers by their size, all else side by side."""
    numbers = {value: as_number(value) for value in values}
    known = [number for number in numbers.values() if number is not None]
    if len(known) < len(values):
        places = {value: float(number) for number, value in enumerate(values)}
        axes.set_xlim(-0.5, len(values) - 0.5)
    else:
        places = dict(zip(values, known, strict=True))
        if min(known) > 0 and max(known) > 10 * min(known):
            axes.set_xscale("log")
    if len(values) <= MOST_TICKS or len(known) < len(values):
        axes.set_xticks(list(places.values()), [shortened(value, SHORT) for value in places])
        axes.set_xticks([], minor=True)
        crowded = sum(len(shortened(value, SHORT)) for value in values) > 2 * SHORT
        axes.tick_params(axis="x", labelrotation=30 if crowded else 0)
    return places.__getitem__


def _points(axes: "Axes", knob: str, group: list[Note], place: Place, color: str) -> None:
    """Each job, and a line through the medians of those that share a value."""
    found = defaultdict(list)
    for note in group:
        if knob in note.knobs:
            found[place(note.knobs[knob])].append(perplexity(note))
    points = [(x, y) for x, some in found.items() for y in some]
    medians = sorted((x, statistics.median(some)) for x, some in found.items())
    for some, style in ((points, "o"), (medians, "-")):
        axes.plot(*np.reshape(some, (-1, 2)).T, style, color=color, markersize=4, linewidth=1)


def as_number(value: str) -> float | None:
    """The finite number that a value is written as; None for any other."""
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def perplexity(note: Note) -> float:
    """On validation."""
    return TokenLoss(note.loss, 1).perplexity


def shortened(text: str, most: int) -> str:
    """A text for a picture, at most so many characters long."""
    text = repr_text(text)
    return text if len(text) <= most else f"{text[: most - 1]}…"
